package outrigger.sdk;

import io.dapr.actors.ActorMethod;
import io.dapr.actors.ActorType;
import java.util.List;
import reactor.core.publisher.Mono;

/** An actor that keeps a sum, entries and what its timers and reminders have called it with. */
@ActorType(name = "Keeper")
public interface Keeper {
  /** An entry of the state. */
  record Entry(String key, Object value) {}

  /** A timer or a reminder; the times are in milliseconds, and a negative period is for once. */
  record Alarm(String name, String data, long due, long period) {}

  @ActorMethod(returns = String.class)
  Mono<String> where();

  @ActorMethod(returns = Integer.class)
  Mono<Integer> activations();

  @ActorMethod(returns = Long.class)
  Mono<Long> add(Long n);

  Mono<Void> put(Entry entry);

  /** The value in the store, whatever the actor has in memory; empty if there is none. */
  @ActorMethod(returns = List.class)
  Mono<List<Object>> get(String key);

  Mono<Void> remove(String key);

  Mono<Void> putAndFail(String key);

  /** How many turns of this actor run at a time. */
  @ActorMethod(returns = Integer.class)
  Mono<Integer> turn();

  @ActorMethod(returns = List.class)
  Mono<List<List<String>>> ticks();

  Mono<Void> startTimer(Alarm timer);

  Mono<Void> stopTimer(String name);

  Mono<Void> onTimer(String data);

  Mono<Void> startReminder(Alarm reminder);

  Mono<Void> stopReminder(String name);
}
