package outrigger.sdk;

import io.dapr.actors.ActorId;
import io.dapr.actors.ActorType;
import io.dapr.actors.runtime.AbstractActor;
import io.dapr.actors.runtime.ActorRuntimeContext;
import io.dapr.actors.runtime.Remindable;
import io.dapr.utils.TypeRef;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.UnaryOperator;
import reactor.core.publisher.Mono;

/** The types Keeper and Brief, which differ in their configuration. */
@ActorType(name = "Keeper")
class KeeperActor extends AbstractActor implements Keeper, Remindable<String> {
  /** Is deactivated once it was idle for a moment. */
  @ActorType(name = "Brief")
  static final class Brief extends KeeperActor implements Keeper, Remindable<String> {
    Brief(ActorRuntimeContext<KeeperActor> context, ActorId id) {
      super(context, id);
    }
  }

  private static final TypeRef<List<List<String>>> TICKS = new TypeRef<>() {};

  private final AtomicInteger turns = new AtomicInteger();
  private final Set<String> failed = ConcurrentHashMap.newKeySet();

  KeeperActor(ActorRuntimeContext<KeeperActor> context, ActorId id) {
    super(context, id);
  }

  /** Changes a value of the state, which is made if there is none. */
  private <T> Mono<T> change(String key, TypeRef<T> as, T none, UnaryOperator<T> change) {
    return Mono.defer(() -> read(key, as, none)).map(change).flatMap(now -> getActorStateManager().set(key, now).thenReturn(now));
  }

  private <T> Mono<T> read(String key, TypeRef<T> as, T none) {
    return getActorStateManager().contains(key).flatMap(is -> is ? getActorStateManager().get(key, as) : Mono.just(none));
  }

  @Override
  protected Mono<Void> onActivate() {
    return change("activations", TypeRef.INT, 0, n -> n + 1).then(Mono.defer(this::saveState));
  }

  @Override
  public Mono<Integer> activations() {
    return Mono.defer(() -> getActorStateManager().get("activations", Integer.class));
  }

  @Override
  public Mono<String> where() {
    return Mono.fromSupplier(() -> Host.role);
  }

  @Override
  public Mono<Long> add(Long n) {
    return change("sum", TypeRef.LONG, 0L, old -> old + n);
  }

  @Override
  public Mono<Void> put(Entry entry) {
    return Mono.defer(() -> getActorStateManager().set(entry.key(), entry.value()));
  }

  @Override
  public Mono<List<Object>> get(String key) {
    return Mono.defer(() -> {
      getActorStateManager().clear();
      return read(key, TypeRef.get(Object.class), List.of()).map(List::of);
    }).map(found -> found.equals(List.of(List.of())) ? List.of() : found);
  }

  @Override
  public Mono<Void> remove(String key) {
    return Mono.defer(() -> getActorStateManager().remove(key));
  }

  @Override
  public Mono<Void> putAndFail(String key) {
    return Mono.defer(() -> getActorStateManager().set(key, "never seen")).then(Mono.error(new IllegalStateException("the actor failed")));
  }

  @Override
  public Mono<Integer> turn() {
    return Mono.fromSupplier(turns::incrementAndGet).delayElement(Duration.ofMillis(10)).map(most -> {
      int now = turns.getAndDecrement();
      return Math.max(most, now);
    });
  }

  @Override
  public Mono<List<List<String>>> ticks() {
    return Mono.defer(() -> read("ticks", TICKS, List.of()));
  }

  private Mono<Void> tick(String... what) {
    return change("ticks", TICKS, List.of(), old -> {
      List<List<String>> all = new ArrayList<>(old);
      all.add(List.of(what));
      return all;
    }).then();
  }

  @Override
  public Mono<Void> startTimer(Alarm timer) {
    return Mono.defer(() -> registerActorTimer(timer.name(), "onTimer", timer.data(), Duration.ofMillis(timer.due()), Duration.ofMillis(timer.period()))).then();
  }

  @Override
  public Mono<Void> stopTimer(String name) {
    return Mono.defer(() -> unregisterTimer(name));
  }

  @Override
  public Mono<Void> onTimer(String data) {
    return tick("timer", data);
  }

  @Override
  public Mono<Void> startReminder(Alarm reminder) {
    return Mono.defer(() -> registerReminder(reminder.name(), reminder.data(), Duration.ofMillis(reminder.due()), Duration.ofMillis(reminder.period())));
  }

  @Override
  public Mono<Void> stopReminder(String name) {
    return Mono.defer(() -> unregisterReminder(name));
  }

  @Override
  public TypeRef<String> getStateType() {
    return TypeRef.STRING;
  }

  @Override
  public Mono<Void> receiveReminder(String name, String data, Duration due, Duration period) {
    return Mono.defer(() -> name.startsWith("failing") && failed.add(name) ? Mono.error(new IllegalStateException("not now")) : tick("reminder", name, data));
  }
}
