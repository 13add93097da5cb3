package outrigger.sdk;

import java.io.PrintWriter;
import java.io.StringWriter;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

/** The Java SDK against sidecars that the tests of the folder above have started. A line a test, and status 1 if one failed. */
final class Suite {
  /** A test. */
  interface Test {
    void run() throws Exception;
  }

  private record Named(String name, Test test) {}

  private final List<Named> tests = new ArrayList<>();

  void add(String name, Test test) {
    tests.add(new Named(name, test));
  }

  public static void main(String[] args) throws Exception {
    boolean passed;
    try (Actors actors = new Actors(); Jobs jobs = new Jobs()) {
      Suite together = new Suite();
      actors.tests(together);
      jobs.tests(together);
      passed = together.run(4);
      Suite last = new Suite();
      last.add("actors move", actors::move);
      passed &= last.run(1);
    }
    System.exit(passed ? 0 : 1);
  }

  /** Runs some tests at a time, and returns whether all passed. */
  private boolean run(int threads) throws Exception {
    ExecutorService pool = Executors.newFixedThreadPool(threads);
    try {
      List<Future<Boolean>> results = new ArrayList<>();
      for (Named t : tests) {
        results.add(pool.submit(() -> run(t)));
      }
      boolean passed = true;
      for (Future<Boolean> result : results) {
        passed &= result.get();
      }
      return passed;
    } finally {
      pool.shutdownNow();
    }
  }

  private static boolean run(Named t) {
    long start = System.nanoTime();
    StringWriter why = new StringWriter();
    try {
      t.test.run();
    } catch (Exception | AssertionError e) {
      e.printStackTrace(new PrintWriter(why));
    }
    boolean passed = why.toString().isEmpty();
    System.out.printf("%s %s (%d ms)%n%s", passed ? "ok  " : "FAIL", t.name, (System.nanoTime() - start) / 1_000_000, why);
    return passed;
  }

  /** Checks that two values are equal. */
  static void equal(Object got, Object want) {
    if (!Objects.equals(got, want)) {
      throw new AssertionError("got " + got + ", want " + want);
    }
  }

  static void check(boolean holds, String what) {
    if (!holds) {
      throw new AssertionError(what);
    }
  }

  /** Checks that a call fails with a text in its message. */
  static void fails(Callable<?> call, String text) {
    Object got;
    try {
      got = call.call();
    } catch (Exception e) {
      check(String.valueOf(e.getMessage()).contains(text), "the error is " + e + ", want one with " + text);
      return;
    }
    throw new AssertionError("got " + got + ", want an error with " + text);
  }

  /** Repeats a check until it holds, with a pause between in milliseconds, for the limit in seconds at most. */
  static void until(int limit, long pause, Test check) throws Exception {
    long end = System.nanoTime() + limit * 1_000_000_000L;
    while (true) {
      try {
        check.run();
        return;
      } catch (Exception | AssertionError e) {
        if (System.nanoTime() > end) {
          throw e;
        }
      }
      Thread.sleep(pause);
    }
  }

  static void until(Test check) throws Exception {
    until(10, 20, check);
  }
}
