package outrigger.sdk;

import static outrigger.sdk.Suite.check;
import static outrigger.sdk.Suite.equal;
import static outrigger.sdk.Suite.fails;
import static outrigger.sdk.Suite.until;

import io.dapr.actors.ActorId;
import io.dapr.actors.client.ActorClient;
import io.dapr.actors.client.ActorProxyBuilder;
import io.dapr.client.DaprClient;
import java.lang.ProcessBuilder.Redirect;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import outrigger.sdk.Keeper.Alarm;
import outrigger.sdk.Keeper.Entry;
import reactor.core.publisher.Flux;

/** Actors that two instances of one app host; the client's sidecar has no app. */
final class Actors implements AutoCloseable {
  private static final Set<String> HOSTS = Set.of("ACTORS_ONE", "ACTORS_TWO");

  private final ActorClient client = Sidecar.of("CALLER").actors();
  private final List<Process> hosts = new ArrayList<>();

  Actors() throws Exception {
    try {
      for (String role : HOSTS) {
        String java = Path.of(System.getProperty("java.home"), "bin", "java").toString();
        hosts.add(new ProcessBuilder(java, "-XX:TieredStopAtLevel=1", "-cp", System.getProperty("java.class.path"), Host.class.getName(), role).redirectOutput(Redirect.INHERIT).redirectError(Redirect.INHERIT).start());
      }
      until(30, 100, () -> equal(Set.copyOf(places("first")), HOSTS));
    } catch (Exception | AssertionError e) {
      close();
      throw e;
    }
  }

  @Override
  public void close() throws Exception {
    for (Process host : hosts) {
      host.destroyForcibly().waitFor();
    }
    client.close();
  }

  private Keeper actor(String type, String id) {
    return new ActorProxyBuilder<>(type, Keeper.class, client).build(new ActorId(id));
  }

  private Keeper keeper(String id) {
    return actor("Keeper", id);
  }

  /** Where twenty actors are. */
  private List<String> places(String id) {
    return Flux.range(0, 20).concatMap(i -> keeper(id + " " + i).where()).collectList().block();
  }

  /** Waits for the calls of a timer or of reminders, which are only those so far. */
  private static void awaitTicks(Keeper of, List<List<String>> want) throws Exception {
    until(() -> equal(of.ticks().block(), want));
  }

  void tests(Suite suite) {
    suite.add("actors answer", this::answer);
    suite.add("actors are in one place each", this::place);
    suite.add("actors take one turn at a time", this::turns);
    suite.add("actors have state", this::state);
    suite.add("actors fail", this::failure);
    suite.add("actors have timers", this::timers);
    suite.add("actors have reminders", this::reminders);
    suite.add("actors have reminders that come again when they fail", this::failingReminders);
    suite.add("actors are reentrant", this::reentrancy);
    suite.add("actors are deactivated when idle, and keep their state and reminders", this::idle);
    suite.add("actors have a type", () -> fails(() -> actor("Missing", "x").where().block(), "did not find address for actor 'Missing/x'"));
  }

  private void answer() {
    Keeper a = keeper("answers");
    equal(a.add(1L).block(), 1L);
    equal(a.add(1L << 60).block(), (1L << 60) + 1);
    equal(keeper("a b+c=ü").add(5L).block(), 5L);
    equal(keeper("a b+c=ü").add(5L).block(), 10L);
  }

  private void place() {
    List<String> places = places("place");
    equal(Set.copyOf(places), HOSTS);
    equal(places("place"), places);
    for (int i = 0; i < places.size(); i++) {
      equal(keeper("place " + i).activations().block(), 1);
    }
  }

  private void turns() {
    Keeper a = keeper("turns");
    equal(Flux.range(0, 24).flatMap(i -> a.turn(), 24).collectList().block(), Collections.nCopies(24, 1));
  }

  private void state() {
    Keeper a = keeper("state");
    equal(a.get("key").block(), List.of());
    for (Object value : new Object[] {"text", Map.of("nested", List.of(1, 2.5, "ü")), List.of(1), (1L << 60) + 1, "x".repeat(1 << 20)}) {
      a.put(new Entry("key", value)).block();
      equal(a.get("key").block(), List.of(value));
    }
    equal(keeper("other state").get("key").block(), List.of());
    a.remove("key").block();
    equal(a.get("key").block(), List.of());
  }

  private void failure() {
    Keeper a = keeper("failing");
    fails(() -> a.putAndFail("key").block(), "the actor failed");
    equal(a.get("key").block(), List.of());
  }

  private void timers() throws Exception {
    Keeper once = keeper("timer once");
    once.startTimer(new Alarm("once", "one", 50, -1)).block();
    awaitTicks(once, List.of(List.of("timer", "one")));
    Keeper many = keeper("timer many");
    many.startTimer(new Alarm("many", "again", 0, 100)).block();
    until(() -> check(many.ticks().block().size() >= 3, "the timer has not fired three times"));
    many.stopTimer("many").block();
    List<List<String>> got = new ArrayList<>(many.ticks().block());
    equal(got, Collections.nCopies(got.size(), List.of("timer", "again")));
    // Had the other not ended, there would be more of it by the time of this one.
    many.startTimer(new Alarm("last", "last", 500, -1)).block();
    got.add(List.of("timer", "last"));
    awaitTicks(many, got);
  }

  private void reminders() throws Exception {
    Keeper once = keeper("reminder once");
    once.startReminder(new Alarm("once", "one", 0, -1)).block();
    awaitTicks(once, List.of(List.of("reminder", "once", "one")));
    Keeper many = keeper("reminder many");
    many.startReminder(new Alarm("many", "again", 0, 200)).block();
    until(() -> check(many.ticks().block().size() >= 3, "the reminder has not fired three times"));
    many.stopReminder("many").block();
    List<List<String>> got = many.ticks().block();
    equal(got, Collections.nCopies(got.size(), List.of("reminder", "many", "again")));
    many.startReminder(new Alarm("last", "last", 800, -1)).block();
    until(() -> {
      List<List<String>> now = many.ticks().block();
      equal(now.get(now.size() - 1), List.of("reminder", "last", "last"));
    });
    check(many.ticks().block().size() <= got.size() + 2, "the reminder fires after it was stopped"); // one may have been on its way
  }

  private void failingReminders() throws Exception {
    Keeper a = keeper("failing reminder");
    a.startReminder(new Alarm("failing", "x", 0, -1)).block();
    awaitTicks(a, List.of(List.of("reminder", "failing", "x")));
  }

  private void reentrancy() {
    String a = "reentrant";
    String b = "other";
    Visitor first = new ActorProxyBuilder<>("Reentrant", Visitor.class, client).build(new ActorId(a));
    equal(first.visit(List.of(b, a)).block(), List.of(a, b, a));
    equal(first.visit(List.of(a)).block(), List.of(a, a));
    fails(() -> first.visit(Collections.nCopies(5, a)).block(), "maximum stack depth exceeded");
    equal(first.visit(List.of()).block(), List.of(a));
  }

  private void idle() throws Exception {
    Keeper brief = actor("Brief", "brief");
    brief.add(5L).block();
    brief.startReminder(new Alarm("still", "here", 2500, -1)).block();
    until(10, 800, () -> check(brief.activations().block() >= 2, "the actor is not deactivated")); // it must not be called to be idle
    equal(brief.add(1L).block(), 6L);
    awaitTicks(brief, List.of(List.of("reminder", "still", "here")));
  }

  /** When one of two hosts is gone, its actors go on in the other, with their state and reminders. */
  void move() throws Exception {
    List<Keeper> moving = new ArrayList<>();
    // Who has which actor is up to chance: of so many some live with the second.
    for (int i = 0; i < 64 && moving.size() < 4; i++) {
      Keeper a = keeper("moving " + i);
      if (a.where().block().equals("ACTORS_TWO")) {
        moving.add(a);
      }
    }
    check(!moving.isEmpty(), "all actors are in one place");
    for (Keeper a : moving) {
      a.add(7L).block();
      a.startReminder(new Alarm("still", "here", 0, 250)).block();
    }
    try (DaprClient second = Sidecar.of("ACTORS_TWO").clients().build()) {
      second.shutdown().block();
    }
    for (Keeper a : moving) {
      until(20, 50, () -> equal(a.where().block(), "ACTORS_ONE"));
      equal(a.add(1L).block(), 8L);
      int before = a.ticks().block().size();
      until(() -> check(a.ticks().block().size() > before, "the reminder does not fire any more"));
      a.stopReminder("still").block();
    }
  }
}
