"use strict";

const assert = require("node:assert/strict");
const { EventEmitter, once } = require("node:events");
const { after, before, describe, it } = require("node:test");
const { isDeepStrictEqual } = require("node:util");
const { DaprPubSubStatusEnum, DaprServer } = require("@dapr/dapr");
const { env, protocols, isHTTP, sidecar, client, clientOptions, Code, fails, succeeds, until } = require("./sidecars");

const { SUCCESS, RETRY, DROP } = DaprPubSubStatusEnum;
const redis = process.env.SDK_REDIS ? {} : { skip: "there is no Redis server" };

// EventApp is an app that keeps what it gets: { route, data, headers }.
class EventApp {
  got = [];
  changes = new EventEmitter().setMaxListeners(0);

  put(route, data, headers) {
    this.got.push({ route, data, headers });
    this.changes.emit("got");
  }

  constructor({ name, protocol }) {
    this.name = name.toLowerCase();
    this.protocol = protocol;
    this.role = isHTTP(protocol) ? "EVENTS_HTTP" : "EVENTS_GRPC";
    this.id = sidecar(this.role).id;
  }

  // taking is a handler that keeps an event and answers with a status, or with that of a function.
  taking(route, status = SUCCESS) {
    return async (data, headers) => {
      this.put(route, data, headers);
      return typeof status === "function" ? status(data) : status;
    };
  }

  on(route, data) {
    return this.got.filter((g) => g.route === route && isDeepStrictEqual(g.data, data));
  }

  // await waits for n events with this data on a route, checks that there are not more so far, and returns the last.
  async await(route, data, n = 1) {
    const signal = AbortSignal.timeout(10_000);
    for (;;) {
      const found = this.on(route, data);
      if (found.length >= n) {
        assert.equal(found.length, n, `events on ${route} with ${JSON.stringify(data)}`);
        return found.at(-1);
      }
      try {
        await once(this.changes, "got", { signal });
      } catch {
        assert.fail(`${found.length} events on ${route} with ${JSON.stringify(data)}, want ${n}; the app got ${JSON.stringify(this.got.map((g) => [g.route, g.data])).slice(-2000)}`);
      }
    }
  }

  // start hosts the app with all subscriptions of the tests, for a sidecar asks for them once only.
  async start() {
    const options = clientOptions(this.role, this.protocol);
    const server = new DaprServer({ serverHost: "127.0.0.1", serverPort: sidecar(this.role).app, communicationProtocol: this.protocol, clientOptions: options, logger: options.logger });
    this.server = server;
    const { pubsub } = server;

    await pubsub.subscribe("broker", "orders", this.taking("orders"));
    await pubsub.subscribe("broker", "deep/er", this.taking("deeper"), "/below");
    await pubsub.subscribe("broker", "raw", this.taking("raw"), undefined, { rawPayload: true });
    await pubsub.subscribeWithOptions("broker", "routed", {
      route: { default: "default", rules: [{ match: `event.type == "special"`, path: "special" }, { match: "event.data.n > 10", path: "many" }] },
    });
    for (const route of ["default", "special", "many"]) {
      pubsub.subscribeToRoute("broker", "routed", route, this.taking(`routed-${route}`));
    }
    const failing = (data) => ({ again: RETRY, drop: DROP })[data.split(" ")[0]];
    await pubsub.subscribeWithOptions("broker", "failing", { deadLetterTopic: "dead", callback: this.taking("failing", failing) });
    await pubsub.subscribe("broker", "dead", this.taking("dead"));
    await pubsub.subscribe("broker", "written", this.taking("written"));
    await pubsub.subscribeBulk("broker", "bulk", this.taking("bulk"), { maxMessagesCount: 10, maxAwaitDurationMs: 50 });
    await pubsub.subscribeBulk("broker", "bulk-raw", this.taking("bulk-raw"), { maxAwaitDurationMs: 50, metadata: { rawPayload: true } });
    await pubsub.subscribeWithOptions("broker", "bulk-failing", {
      bulkSubscribe: { enabled: true, maxMessagesCount: 10, maxAwaitDurationMs: 50 },
      deadLetterTopic: "dead",
      callback: this.taking("bulk-failing", failing),
    });

    if (!redis.skip) {
      const seen = new Set();
      await pubsub.subscribe("redis", "js-shared", this.taking("shared"));
      await pubsub.subscribe("redis", "js-flaky", this.taking("flaky", (data) => (seen.has(data) ? SUCCESS : (seen.add(data), RETRY))));
      // The wait is longer than a test may take: only a full batch is delivered in time.
      await pubsub.subscribeBulk("redis", `js-bulk-${this.name}`, this.taking("redis-bulk"), { maxMessagesCount: 3, maxAwaitDurationMs: 60_000 });
    }

    // The SDK has no handlers for declared routes as such: over HTTP the app has an Express server, and over gRPC
    // a subscription to a topic that nobody publishes to matches those that are declared.
    const declared = ["declared", "declared-special", "declared-old"];
    if (isHTTP(this.protocol)) {
      const app = await server.daprServer.getServer();
      for (const route of declared) {
        app.post(`/${route}`, async (req, res) => res.json({ status: await this.taking(route)(req.body.data, req.headers) }));
      }
    } else {
      await pubsub.subscribeWithOptions("broker", "declared/#", { route: { rules: declared.map((path) => ({ match: `event.id == ""`, path })) } });
      for (const route of declared) {
        pubsub.subscribeToRoute("broker", "declared/#", route, this.taking(route));
      }
    }

    let ticks = 0;
    await server.binding.receive("tick", async (data) => {
      this.put("tick", data);
      if (ticks++ === 0) {
        throw new Error("not now"); // which a schedule does not care about
      }
    });

    await server.start();
    // A sidecar is ready once it has started the app's subscriptions.
    await until(async () => assert.equal((await fetch(`http://127.0.0.1:${sidecar(this.role).http}/v1.0/healthz`)).status, 204));
  }

  async stop() {
    // A gRPC server waits for its connections to end, and sidecars keep theirs.
    const stopped = this.server.stop();
    await (isHTTP(this.protocol) ? stopped : undefined);
    await this.server.client.stop();
  }
}

const apps = protocols.map((p) => new EventApp(p));
// The HTTP clients of the SDK share their connections, which end with the first of them: all have to last as long as the tests.
const clients = new Map(apps.map((app) => [app, Object.fromEntries(protocols.map(({ name, protocol }) => [name, client(app.role, protocol)]))]));
before(() => Promise.all(apps.map((app) => app.start())));
after(() => Promise.all(apps.map((app) => app.stop())));

// refused checks that a publication fails; the SDK's HTTP client returns the error, and its gRPC client throws an object with it.
const refused = (protocol, publish, want) => fails(protocol, () => publish().catch((thrown) => thrown), want);

// All at the same time, for some events take their time.
describe("events and bindings", { concurrency: true }, () => {
  for (const app of apps) {
    for (const { name, protocol } of protocols) {
      describe(`events by ${name} to an app that speaks ${app.name}`, { concurrency: 1 }, () => {
        const c = clients.get(app)[name];
        const by = `${name} to ${app.name}`; // tells the events of these tests from those of the others
        const publish = (topic, data, options) => succeeds(c.pubsub.publish("broker", topic, data, options));

        it("come as they were published", async () => {
          const object = { by, n: [1, 2.5, null], text: "ü" };
          await publish("orders", object);
          const { headers } = await app.await("orders", object);
          assert.equal(headers["dapr-api-token"], env("APP_API_TOKEN"));
          assert.equal(headers.pubsubname, "broker");
          if (isHTTP(app.protocol)) {
            assert.match(headers["content-type"], /^application\/cloudevents\+json/);
          }
          await publish("orders", `text ${by}`);
          await app.await("orders", `text ${by}`);
          await publish("orders", `<by>${by}</by>`, { contentType: "application/xml" });
          await app.await("orders", `<by>${by}</by>`);
          await publish("orders", Buffer.from(`bytes ${by}`));
          await app.await("orders", `bytes ${by}`);
          await publish("deep/er", `below ${by}`);
          await app.await("deeper", `below ${by}`);
          await publish("orders", { specversion: "1.0", id: "own", source: "own", type: "own", datacontenttype: "application/json", data: { own: by } });
          await app.await("orders", { own: by });
        });

        it("come with their metadata", async () => {
          await publish("orders", `metadata ${by}`, { metadata: { own: "header", ttlInSeconds: "60" } });
          const { headers } = await app.await("orders", `metadata ${by}`);
          assert.equal(headers.own, "header");
          assert.equal(headers.ttlinseconds, "60");
        });

        it("come raw", async () => {
          await publish("raw", `raw ${by}`, { metadata: { rawPayload: true.toString() } });
          await app.await("raw", `raw ${by}`);
          await publish("raw", { raw: by }, { metadata: { rawPayload: true.toString() } });
          await app.await("raw", { raw: by });
        });

        it("are routed", async () => {
          await publish("routed", { by, n: 99 }, { metadata: { "cloudevent.type": "special" } });
          await publish("routed", { by, n: 11 });
          await publish("routed", { by, n: 10 });
          for (const [route, n] of [["special", 99], ["many", 11], ["default", 10]]) {
            await app.await(`routed-${route}`, { by, n });
          }
          assert.equal(app.got.filter((g) => g.route.startsWith("routed-") && g.data.by === by).length, 3);
        });

        it("come to declared routes", async () => {
          await publish("declared/others", { by, kind: "others" });
          for (const [route, topic, kind] of [["declared-special", "new", "special"], ["declared", "new", "plain"], ["declared-old", "old", "old"]]) {
            await publish(`declared/${topic}`, { by, kind });
            await app.await(route, { by, kind });
          }
          assert.equal(app.got.filter((g) => g.route.startsWith("declared") && g.data.by === by).length, 3);
        });

        it("are published in bulk", async () => {
          const published = (messages, metadata) => c.pubsub.publishBulk("broker", "orders", messages, metadata).then((r) => assert.deepEqual(r, { failedMessages: [] }));
          await published([`bulk text ${by}`, { bulk: by }, { entryID: "named", event: { entry: by }, contentType: "application/json" }]);
          await app.await("orders", `bulk text ${by}`);
          await app.await("orders", { bulk: by });
          await app.await("orders", { entry: by });
          if (isHTTP(protocol)) { // over gRPC the SDK sends neither the metadata nor the content type of an entry
            await published(
              [{ event: `bulk metadata ${by}`, metadata: { own: "entry" } }, { event: Buffer.from(`bulk bytes ${by}`).toString("base64"), contentType: "application/octet-stream" }],
              { own: "request", two: "2" },
            );
            const { headers } = await app.await("orders", `bulk metadata ${by}`);
            assert.equal(headers.own, "entry");
            assert.equal(headers.two, "2");
            await app.await("orders", `bulk bytes ${by}`);
          }
          const many = Array.from({ length: 50 }, (_, i) => `many ${i} ${by}`);
          await published(many);
          for (const data of many) {
            await app.await("orders", data);
          }

          const same = { entryID: "same", event: "x", contentType: "text/plain" };
          const { failedMessages } = await c.pubsub.publishBulk("broker", "orders", [same, same]);
          assert.equal(failedMessages.length, 2);
          await fails(protocol, () => failedMessages[0], { status: 400, errorCode: "ERR_PUBSUB_EVENTS_SER", code: Code.InvalidArgument, text: "entryId is duplicated or not present for entry" });
        });

        it("come in bulk", async () => {
          const { failedMessages } = await c.pubsub.publishBulk("broker", "bulk", [`one ${by}`, { two: by }]);
          assert.deepEqual(failedMessages, []);
          await publish("bulk", Buffer.from(`three ${by}`));
          await app.await("bulk", `one ${by}`);
          await app.await("bulk", { two: by });
          if (!isHTTP(app.protocol)) { // over HTTP the SDK does not look at data_base64 in a batch
            await app.await("bulk", `three ${by}`);
          }
          await publish("bulk-raw", `raw ${by}`, { metadata: { rawPayload: true.toString() } });
          await app.await("bulk-raw", `raw ${by}`);
        });

        it("come to a dead-letter topic when they are not taken", async () => {
          for (const topic of ["failing", "bulk-failing"]) {
            const data = (what) => `${what} ${topic} ${by}`;
            for (const what of ["taken", "again", "drop"]) {
              await publish(topic, data(what));
            }
            for (const what of ["again", "drop"]) {
              await app.await("dead", data(what));
              await app.await(topic, data(what));
            }
            await app.await(topic, data("taken"));
            assert.deepEqual(app.on("dead", data("taken")), []);
          }
        });

        it("are published by transactions", async () => {
          await succeeds(c.state.transaction("outbox", [{ operation: "upsert", request: { key: `key ${by}`, value: `written ${by}` } }]));
          await app.await("written", `written ${by}`);
          assert.equal(await c.state.get("outbox", `key ${by}`), `written ${by}`);
        });

        it("are refused", async () => {
          await refused(protocol, () => c.pubsub.publish("nobroker", "orders", "x"), { status: 404, errorCode: "ERR_PUBSUB_NOT_FOUND", code: Code.InvalidArgument, text: "pubsub nobroker is not found" });
          await refused(protocol, () => c.pubsub.publish("broker", "forbidden", "x"), { status: 403, errorCode: "ERR_PUBSUB_FORBIDDEN", code: Code.PermissionDenied, text: `topic forbidden is not allowed for app id ${app.id}` });
          await refused(protocol, () => c.pubsub.publish("broker", "orders", "x", { metadata: { rawPayload: "perhaps" } }), {
            status: 400, errorCode: "ERR_PUBSUB_REQUEST_METADATA", code: Code.InvalidArgument, text: "rawPayload value must be a valid boolean: actual is 'perhaps'",
          });
          const { failedMessages } = await c.pubsub.publishBulk("broker", "forbidden", ["x", "y"]);
          assert.equal(failedMessages.length, 2);
          await fails(protocol, () => failedMessages[0], { status: 403, errorCode: "ERR_PUBSUB_FORBIDDEN", code: Code.PermissionDenied, text: "topic forbidden is not allowed" });
        });

        it("come through Redis to both apps", redis, async () => {
          await succeeds(c.pubsub.publish("redis", "js-shared", { shared: by }, { metadata: { own: "header" } }));
          for (const each of apps) {
            const { headers } = await each.await("shared", { shared: by });
            assert.equal(headers.own, "header");
            assert.equal(headers.pubsubname, "redis");
          }
        });

        it("come through Redis again when they are not taken", redis, async () => {
          await succeeds(c.pubsub.publish("redis", "js-flaky", `flaky ${by}`));
          for (const each of apps) {
            await each.await("flaky", `flaky ${by}`, 2);
          }
        });

        it("come through Redis in bulk", redis, async () => {
          const { failedMessages } = await c.pubsub.publishBulk("redis", `js-bulk-${app.name}`, [0, 1, 2, 3, 4, 5].map((n) => ({ n, by })));
          assert.deepEqual(failedMessages, []);
          for (const n of [0, 1, 2, 3, 4, 5]) {
            await app.await("redis-bulk", { n, by });
          }
        });
      });

      describe(`bindings by ${name} of the sidecar of an app that speaks ${app.name}`, { concurrency: 1 }, () => {
        const c = clients.get(app)[name];
        const text = (reply) => (isHTTP(protocol) ? reply : JSON.parse(Buffer.from(reply.data).toString() || "null"));
        const path = `js-${name}-${app.name}`;

        it("keep files", async () => {
          const fileName = `${path}/file.json`;
          const data = { some: ["data", 1], "<": "ü" };
          await c.binding.send("files", "create", data, { fileName });
          assert.deepEqual(text(await c.binding.send("files", "get", undefined, { fileName })), data);
          const list = text(await c.binding.send("files", "list", undefined, { fileName: path }));
          assert.equal(list.length, 1);
          assert.ok(list[0].endsWith(fileName), list[0]);
          await c.binding.send("files", "delete", undefined, { fileName });
          await fails(protocol, () => c.binding.send("files", "get", undefined, { fileName }), { status: 500, errorCode: "ERR_INVOKE_OUTPUT_BINDING", code: Code.Internal, text: "error invoking output binding files: " });
        });

        it("call a web server", async () => {
          const asked = text(await c.binding.send("web", "put", { put: 1 }, { path: "/some/path", "X-Own": "header" }));
          assert.equal(asked.method, "PUT");
          assert.equal(asked.path, "/some/path");
          assert.deepEqual(JSON.parse(asked.body), { put: 1 });
          assert.deepEqual(asked.header["X-Own"], ["header"]);
          const got = await c.binding.send("web", "get", undefined, {});
          assert.equal(text(got).method, "GET");
          if (!isHTTP(protocol)) {
            assert.equal(got.metadata.statusCode, "200");
            assert.equal(got.metadata["X-Web"], "yes");
          }
        });

        it("say what is wrong", async () => {
          for (const [binding, operation, metadata, says] of [
            ["web", "get", { path: "/fail" }, "error invoking output binding web: received status code 418"],
            ["web", "dance", {}, "binding web does not support operation dance. supported operations:"],
            ["nothing", "create", {}, "couldn't find output binding nothing"],
            ["tick", "create", {}, "couldn't find output binding tick"], // it is an input only
          ]) {
            await fails(protocol, () => c.binding.send(binding, operation, "x", metadata), { status: 500, errorCode: "ERR_INVOKE_OUTPUT_BINDING", code: Code.Internal, text: says });
          }
        });
      });
    }

    it(`an input binding calls an app that speaks ${app.name}, also after a failure`, async () => {
      const ticks = () => app.got.filter((g) => g.route === "tick");
      await until(() => assert.ok(ticks().length >= 2));
      for (const { data } of ticks()) {
        assert.deepEqual(data, isHTTP(app.protocol) ? {} : ""); // what the SDK makes of no data
      }
    });
  }
});
