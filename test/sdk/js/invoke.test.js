"use strict";

const assert = require("node:assert/strict");
const { after, before, describe, it } = require("node:test");
const { CommunicationProtocolEnum, DaprClient, DaprServer, HttpMethod } = require("@dapr/dapr");
const { env, protocols, isHTTP, sidecar, client, clientOptions, Code, fails, until } = require("./sidecars");

const { HTTP, GRPC } = CommunicationProtocolEnum;
const verbs = [HttpMethod.GET, HttpMethod.POST, HttpMethod.PUT, HttpMethod.PATCH, HttpMethod.DELETE];
const traceID = "4bf92f3577b34da6a3ce929d0e0e4736";

// host starts an app whose method "echo" answers with what it got. It returns a function that stops it.
async function host(role, protocol, more = () => {}) {
  const options = clientOptions(role, protocol);
  const server = new DaprServer({ serverHost: "127.0.0.1", serverPort: sidecar(role).app, communicationProtocol: protocol, clientOptions: options, logger: options.logger });
  for (const method of verbs) {
    await server.invoker.listen("echo", async (got) => ({ method, ...got }), { method });
  }
  await server.invoker.listen("deep/path", async () => ({ deep: true }), { method: HttpMethod.POST });
  await server.invoker.listen("nothing", async () => {}, { method: HttpMethod.POST });
  await more(server);
  await server.start();
  const c = new DaprClient(clientOptions("CALLER", HTTP));
  await until(() => c.invoker.invoke(sidecar(role).id, "nothing", HttpMethod.POST)); // its sidecar has to see it first
  return async () => {
    // A gRPC server waits for its connections to end, and sidecars keep theirs.
    const stopped = server.stop();
    await (isHTTP(protocol) ? stopped : undefined);
    await server.client.stop();
  };
}

describe("invocation of an HTTP app", () => {
  let stop;
  before(async () => {
    stop = await host("HTTP_APP", HTTP, async (server) => {
      const app = await server.daprServer.getServer();
      app.get("/teapot", (_, res) => res.status(418).set("x-app", "pot").json({ error: "short and stout" }));
      app.post("/fail", (_, res) => res.status(500).send("the app failed"));
      app.get("/created", (_, res) => res.status(201).type("text/plain").send("made"));
    });
  });
  after(() => stop());

  for (const { name, protocol } of protocols) {
    describe(`by ${name}`, () => {
      const c = client("CALLER", protocol);
      const { id } = sidecar("HTTP_APP");

      for (const method of verbs) {
        it(`passes ${method}`, async () => {
          const data = method === HttpMethod.GET ? undefined : { some: ["data", 1] };
          const got = await c.invoker.invoke(id, "echo", method, data);
          assert.equal(got.method, method);
          if (data) {
            assert.deepEqual(JSON.parse(got.body), data);
            assert.match(got.metadata.contentType, /^application\/json/);
          }
          assert.equal(got.headers["dapr-caller-app-id"], sidecar("CALLER").id);
          assert.equal(got.headers["dapr-callee-app-id"], id);
          assert.equal(got.headers["dapr-api-token"], env("APP_API_TOKEN"));
        });
      }

      it("passes deeper paths and empty answers", async () => {
        assert.deepEqual(await c.invoker.invoke(id, "deep/path", HttpMethod.POST, { x: 1 }), { deep: true });
        assert.deepEqual(await c.invoker.invoke(id, "nothing", HttpMethod.POST, { x: 1 }), { closed: true });
      });

      it("passes errors of the app", async () => {
        await fails(protocol, () => c.invoker.invoke(id, "fail", HttpMethod.POST), { status: 500, code: Code.Unknown, text: isHTTP(protocol) ? "the app failed" : "Internal Server Error" });
        await fails(protocol, () => c.invoker.invoke(id, "missing", HttpMethod.GET), { status: 404, code: Code.NotFound, text: isHTTP(protocol) ? "Cannot GET /missing" : "Not Found" });
        await fails(protocol, () => c.invoker.invoke(id, "teapot", HttpMethod.GET), { status: 418, code: Code.Unknown, text: isHTTP(protocol) ? "short and stout" : "I'm a teapot" });
      });
    });
  }

  it("passes the query, headers and the trace", async () => {
    const c = client("CALLER", HTTP);
    const headers = { "X-Own": "header", traceparent: `00-${traceID}-00f067aa0ba902b7-01` };
    const got = await c.invoker.invoke(sidecar("HTTP_APP").id, "echo?a=1&b=x%20y&a=2", HttpMethod.GET, undefined, { headers });
    assert.equal(got.query, "/echo?a=1&b=x%20y&a=2");
    assert.equal(got.headers["x-own"], "header");
    assert.ok(got.headers.traceparent.includes(traceID), got.headers.traceparent);
    assert.match(got.headers["user-agent"], /^dapr-sdk-js/);
  });

  it("passes text and binary bodies and other good statuses", async () => {
    const c = client("CALLER", HTTP);
    const { id } = sidecar("HTTP_APP");
    const bytes = [0, 1, 2, 0xfe, 0xff];
    const got = await c.invoker.invoke(id, "echo", HttpMethod.PUT, Buffer.from(bytes), { headers: { "Content-Type": "application/octet-stream" } });
    assert.deepEqual(JSON.parse(got.body), { type: "Buffer", data: bytes });
    const large = Buffer.alloc(3 << 20, 7);
    const echoed = await c.invoker.invoke(id, "echo", HttpMethod.POST, large, { headers: { "Content-Type": "application/octet-stream" } });
    assert.equal(JSON.parse(echoed.body).data.length, large.length);
    const text = await c.invoker.invoke(id, "echo", HttpMethod.POST, "just text", { headers: { "Content-Type": "text/plain" } });
    assert.equal(text.body, '"just text"');
    assert.equal(await c.invoker.invoke(id, "created", HttpMethod.GET), "made");
  });
});

describe("invocation of a gRPC app", () => {
  let stop;
  before(async () => {
    stop = await host("GRPC_APP", GRPC, (server) => server.invoker.listen("fail", async () => {
      throw new Error("the app failed");
    }, { method: HttpMethod.POST }));
  });
  after(() => stop());

  for (const { name, protocol } of protocols) {
    describe(`by ${name}`, () => {
      const c = client("CALLER", protocol);
      const { id } = sidecar("GRPC_APP");

      for (const method of verbs) {
        it(`passes ${method}`, async () => {
          const data = method === HttpMethod.GET ? undefined : { some: ["data", 1] };
          const got = await c.invoker.invoke(id, isHTTP(protocol) ? "echo?a=1&b=2" : "echo", method, data);
          assert.equal(got.method, method);
          if (data) {
            assert.deepEqual(JSON.parse(got.body), data);
            assert.equal(got.metadata.contentType, "application/json");
          }
          assert.equal(got.query, isHTTP(protocol) ? "a=1&b=2" : "");
        });
      }

      it("passes deeper paths", async () => {
        assert.deepEqual(await c.invoker.invoke(id, "deep/path", HttpMethod.POST, { x: 1 }), { deep: true });
      });

      it("passes errors of the app", async () => {
        await fails(protocol, () => c.invoker.invoke(id, "fail", HttpMethod.POST), { status: 500, code: Code.Internal, text: "internal error" });
      });
    });
  }
});

for (const { name, protocol } of protocols) {
  it(`says what is wrong with a call over ${name}`, async () => {
    const c = client("CALLER", protocol);
    await fails(protocol, () => c.invoker.invoke("nobody", "method", HttpMethod.GET), { status: 500, errorCode: "ERR_DIRECT_INVOKE", code: Code.Internal, text: "failed to invoke, id: nobody, err: " });
  });
}
