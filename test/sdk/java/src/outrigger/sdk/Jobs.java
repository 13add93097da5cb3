package outrigger.sdk;

import static outrigger.sdk.Suite.check;
import static outrigger.sdk.Suite.equal;
import static outrigger.sdk.Suite.fails;
import static outrigger.sdk.Suite.until;

import com.sun.net.httpserver.HttpExchange;
import io.dapr.client.DaprPreviewClient;
import io.dapr.client.domain.ConstantFailurePolicy;
import io.dapr.client.domain.DeleteJobRequest;
import io.dapr.client.domain.DropFailurePolicy;
import io.dapr.client.domain.GetJobRequest;
import io.dapr.client.domain.GetJobResponse;
import io.dapr.client.domain.JobSchedule;
import io.dapr.client.domain.ScheduleJobRequest;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;

/** Jobs of an app that speaks HTTP. */
final class Jobs implements AutoCloseable {
  private final App app;
  private final DaprPreviewClient client;
  /** What the app got for each job. */
  private final Map<String, List<String>> got = new ConcurrentHashMap<>();

  Jobs() throws Exception {
    Sidecar sidecar = Sidecar.of("JOBS_HTTP");
    app = new App(sidecar.app(), this::answer);
    client = sidecar.clients().buildPreviewClient();
  }

  @Override
  public void close() throws Exception {
    client.close();
    app.close();
  }

  /** Keeps a job; those whose names begin with failing fail the first time. */
  private byte[] answer(String verb, String[] path, HttpExchange exchange, byte[] body) throws Exception {
    if (!verb.equals("POST") || !path[1].equals("job") || path.length != 3) {
      throw new App.Status(404, "nothing here");
    }
    equal(exchange.getRequestHeaders().getFirst("dapr-api-token"), System.getenv("APP_API_TOKEN"));
    List<String> calls = calls(path[2]);
    calls.add(new String(body, StandardCharsets.UTF_8));
    if (path[2].startsWith("failing") && calls.size() == 1) {
      throw new IllegalStateException("not now");
    }
    return null;
  }

  private List<String> calls(String job) {
    return got.computeIfAbsent(job, name -> new CopyOnWriteArrayList<>());
  }

  private void await(String job, String... want) throws Exception {
    until(15, 20, () -> equal(calls(job), List.of(want)));
  }

  private void awaitGone(String job) throws Exception {
    until(() -> fails(() -> client.getJob(new GetJobRequest(job)).block(), "job not found"));
  }

  private static byte[] bytes(String text) {
    return text.getBytes(StandardCharsets.UTF_8);
  }

  void tests(Suite suite) {
    suite.add("jobs fire once", this::once);
    suite.add("jobs are repeated", this::repeated);
    suite.add("jobs are kept until they are deleted", this::kept);
    suite.add("jobs that fail come again, or not", this::failing);
    suite.add("jobs are refused", this::refused);
  }

  private void once() throws Exception {
    client.scheduleJob(new ScheduleJobRequest("once", Instant.now()).setData(bytes("{\"n\": 1}"))).block();
    await("once", "{\"n\": 1}");
    awaitGone("once");
    client.scheduleJob(new ScheduleJobRequest("empty", Instant.now())).block();
    await("empty", "");
  }

  private void repeated() throws Exception {
    client.scheduleJob(new ScheduleJobRequest("repeated", JobSchedule.fromPeriod(Duration.ofMillis(300))).setRepeat(3).setData(bytes("again"))).block();
    awaitGone("repeated");
    equal(calls("repeated"), Collections.nCopies(3, "again"));
  }

  private void kept() throws Exception {
    Instant due = Instant.now().plus(Duration.ofHours(1)).truncatedTo(ChronoUnit.SECONDS);
    client.scheduleJob(new ScheduleJobRequest("kept", JobSchedule.hourly()).setDueTime(due).setTtl(due.plus(Duration.ofHours(9))).setRepeat(4).setData(bytes("data"))
        .setFailurePolicy(new ConstantFailurePolicy(5).setDurationBetweenRetries(Duration.ofMillis(300)))).block();
    GetJobResponse job = client.getJob(new GetJobRequest("kept")).block();
    equal(job.getName(), "kept");
    equal(job.getSchedule().getExpression(), JobSchedule.hourly().getExpression());
    equal(job.getDueTime(), due);
    equal(job.getTtl(), due.plus(Duration.ofHours(9)));
    equal(job.getRepeats(), 4);
    equal(new String(job.getData(), StandardCharsets.UTF_8), "data");
    ConstantFailurePolicy policy = (ConstantFailurePolicy) job.getFailurePolicy();
    equal(policy.getMaxRetries(), 5);
    equal(policy.getDurationBetweenRetries(), Duration.ofMillis(300)); // of which the SDK sends and reads what is less than a second

    fails(() -> client.scheduleJob(new ScheduleJobRequest("kept", JobSchedule.daily())).block(), "job already exists");
    client.scheduleJob(new ScheduleJobRequest("kept", JobSchedule.daily()).setOverwrite(true)).block();
    equal(client.getJob(new GetJobRequest("kept")).block().getSchedule().getExpression(), JobSchedule.daily().getExpression());
    client.deleteJob(new DeleteJobRequest("kept")).block();
    awaitGone("kept");
    client.deleteJob(new DeleteJobRequest("kept")).block(); // deleting nothing is fine
    equal(calls("kept"), List.of());
  }

  private void failing() throws Exception {
    client.scheduleJob(new ScheduleJobRequest("failing-again", Instant.now()).setData(bytes("x")).setFailurePolicy(new ConstantFailurePolicy(3).setDurationBetweenRetries(Duration.ofMillis(300)))).block();
    client.scheduleJob(new ScheduleJobRequest("failing-dropped", Instant.now()).setData(bytes("x")).setFailurePolicy(new DropFailurePolicy())).block();
    await("failing-again", "x", "x");
    awaitGone("failing-again");
    awaitGone("failing-dropped");
    equal(calls("failing-dropped"), List.of("x"));
  }

  private void refused() {
    fails(() -> client.scheduleJob(new ScheduleJobRequest("refused", JobSchedule.fromString("often"))).block(), "often");
    check(calls("refused").isEmpty(), "a job that was refused fired");
  }
}
