package outrigger.sdk;

import com.fasterxml.jackson.core.type.TypeReference;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.sun.net.httpserver.HttpExchange;
import io.dapr.actors.ActorId;
import io.dapr.actors.client.ActorClient;
import io.dapr.actors.client.ActorProxyBuilder;
import io.dapr.actors.runtime.ActorRuntime;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.logging.Level;
import java.util.logging.Logger;

/**
 * An app that hosts actors. It is a program of its own, for the SDK has one actor runtime in a process. Its argument is the role of the
 * sidecar. It ends with its input, and so with the program that started it.
 */
final class Host {
  private static final String REENTRANCY = "Dapr-Reentrancy-Id";
  private static final ObjectMapper JSON = new ObjectMapper();

  /** The SDK's, which says something for every call. */
  private static final Logger TRACE = Logger.getLogger("io.dapr.actors.ActorTrace");

  static String role;

  private static ActorRuntime runtime;

  private Host() {}

  public static void main(String[] args) throws Exception {
    TRACE.setLevel(Level.OFF);
    role = args[0];
    Sidecar sidecar = Sidecar.of(role);
    runtime = ActorRuntime.getInstance(sidecar.properties());
    runtime.getConfig().setActorIdleTimeout(Duration.ofMinutes(10)).setActorScanInterval(Duration.ofSeconds(30)).setDrainOngoingCallTimeout(Duration.ofSeconds(5)).setDrainBalancedActors(true);
    runtime.registerActor(KeeperActor.class, KeeperActor::new);
    runtime.registerActor(KeeperActor.Brief.class, (context, id) -> new KeeperActor.Brief(cast(context), id));
    new App(sidecar.app(), Host::answer);
    while (System.in.read() >= 0) {
      // nothing is said
    }
    System.exit(0);
  }

  @SuppressWarnings("unchecked")
  private static <T> T cast(Object o) {
    return (T) o;
  }

  private static byte[] answer(String verb, String[] path, HttpExchange exchange, byte[] body) throws Exception {
    switch (path[1]) {
      case "healthz":
        return null;
      case "dapr":
        if (!path[2].equals("config")) {
          throw new App.Status(404, "nothing here");
        }
        return config();
      case "actors":
        break;
      default:
        throw new App.Status(404, "nothing here");
    }
    String type = path[2];
    String id = path[3];
    if (type.equals("Reentrant")) {
      // The SDK's actors cannot be entered twice, so these are not its own; what calls the next one is.
      return verb.equals("DELETE") ? null : visit(id, exchange.getRequestHeaders().getFirst(REENTRANCY), body);
    }
    if (verb.equals("DELETE")) {
      runtime.deactivate(type, id).block();
      return null;
    }
    if (path.length == 6) {
      return runtime.invoke(type, id, path[5], body).block();
    }
    switch (path[5]) {
      case "timer":
        runtime.invokeTimer(type, id, path[6], body).block();
        return null;
      case "remind":
        runtime.invokeReminder(type, id, path[6], body).block();
        return null;
      default:
        throw new App.Status(404, "nothing here");
    }
  }

  private static byte[] visit(String id, String reentrancy, byte[] body) throws Exception {
    List<String> visited = new ArrayList<>(List.of(id));
    List<String> route = JSON.readValue(body, new TypeReference<>() {});
    if (!route.isEmpty()) {
      // The calls that belong to this turn carry the header that it came with.
      try (ActorClient client = new ActorClient(Sidecar.of(role).properties(), Map.of(REENTRANCY, reentrancy), null)) {
        Visitor next = new ActorProxyBuilder<>("Reentrant", Visitor.class, client).build(new ActorId(route.get(0)));
        visited.addAll(next.visit(route.subList(1, route.size())).block());
      }
    }
    return JSON.writeValueAsBytes(visited);
  }

  /** The SDK's configuration, with that of single types, for which the SDK has no methods. */
  private static byte[] config() throws Exception {
    ObjectNode all = (ObjectNode) JSON.readTree(runtime.serializeConfig());
    all.withArray("entities").add("Reentrant");
    all.set("entitiesConfig", JSON.readTree("""
        [{"entities": ["Reentrant"], "reentrancy": {"enabled": true, "maxStackDepth": 3}},
         {"entities": ["Brief"], "actorIdleTimeout": "300ms", "actorScanInterval": "100ms"}]
        """));
    return JSON.writeValueAsBytes(all);
  }
}
