package outrigger.sdk;

import io.dapr.actors.ActorMethod;
import java.util.List;
import reactor.core.publisher.Mono;

/** An actor of the type Reentrant, which can be called by those whom it calls, three calls deep. */
public interface Visitor {
  /** Calls the first actor of a route with the rest of it, and returns who was called. */
  @ActorMethod(returns = List.class)
  Mono<List<String>> visit(List<String> route);
}
