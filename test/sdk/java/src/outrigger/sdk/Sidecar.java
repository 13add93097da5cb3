package outrigger.sdk;

import io.dapr.actors.client.ActorClient;
import io.dapr.client.DaprClientBuilder;
import io.dapr.config.Properties;
import java.util.Map;

/** The id and ports of a sidecar by its role, such as CALLER, and clients for it. */
record Sidecar(String role, String id, String http, String grpc, int app) {
  static Sidecar of(String role) {
    String app = System.getenv("SDK_" + role + "_APP_PORT");
    return new Sidecar(role, env(role, "ID"), env(role, "HTTP_PORT"), env(role, "GRPC_PORT"), app == null ? 0 : Integer.parseInt(app));
  }

  private static String env(String role, String name) {
    String value = System.getenv("SDK_" + role + "_" + name);
    if (value == null) {
      throw new IllegalStateException("this suite needs its sidecars: run it with go test ./test/sdk in the root of the repository");
    }
    return value;
  }

  Properties properties() {
    return new Properties(Map.of(Properties.HTTP_PORT.getName(), http, Properties.GRPC_PORT.getName(), grpc));
  }

  DaprClientBuilder clients() {
    return new DaprClientBuilder().withPropertyOverride(Properties.HTTP_PORT, http).withPropertyOverride(Properties.GRPC_PORT, grpc);
  }

  ActorClient actors() {
    return new ActorClient(properties());
  }
}
