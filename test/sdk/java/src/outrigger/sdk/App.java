package outrigger.sdk;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/** An HTTP app behind a sidecar, of the standard library alone. */
final class App implements AutoCloseable {
  /** Answers a request. */
  interface Handler {
    /** The body of an answer with status 200, or an exception for one with 500. */
    byte[] answer(String method, String[] path, HttpExchange exchange, byte[] body) throws Exception;
  }

  /** Is thrown for an answer with another status. */
  static final class Status extends Exception {
    private static final long serialVersionUID = 1L;

    final int code;

    Status(int code, String message) {
      super(message);
      this.code = code;
    }
  }

  private final HttpServer server;
  private final ExecutorService threads = Executors.newCachedThreadPool();

  App(int port, Handler handler) throws IOException {
    server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
    server.setExecutor(threads);
    server.createContext("/", exchange -> {
      int status = 200;
      byte[] answer;
      try (exchange) {
        try {
          // The first part is empty, for a path begins with a slash.
          String[] path = exchange.getRequestURI().getPath().split("/");
          answer = handler.answer(exchange.getRequestMethod(), path, exchange, exchange.getRequestBody().readAllBytes());
        } catch (Status e) {
          status = e.code;
          answer = e.getMessage().getBytes();
        } catch (Exception e) {
          status = 500;
          answer = e.toString().getBytes();
        }
        exchange.sendResponseHeaders(status, answer == null || answer.length == 0 ? -1 : answer.length);
        if (answer != null && answer.length > 0) {
          exchange.getResponseBody().write(answer);
        }
      }
    });
    server.start();
  }

  @Override
  public void close() {
    server.stop(0);
    threads.shutdownNow();
  }
}
