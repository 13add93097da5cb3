"use strict";

const assert = require("node:assert/strict");
const { describe, it } = require("node:test");
const { protocols, isHTTP, sidecar, client, Code, fails, until } = require("./sidecars");

for (const { name, protocol } of protocols) {
  describe(`status over ${name}`, () => {
    it("waits for the sidecar", async () => {
      const c = client("CALLER", protocol);
      await c.start();
      assert.equal(c.getIsInitialized(), true);
      assert.equal(await c.health.isHealthy(), true);
    });

    it("gets and sets metadata", async () => {
      const c = client("CALLER", protocol);
      const key = `js-${name}`;
      assert.equal(await c.metadata.set(key, "first"), true);
      assert.equal(await c.metadata.set(key, "two words, ü"), true);
      const m = await c.metadata.get();
      assert.equal(m.id, sidecar("CALLER").id);
      assert.equal(m.extended[key], "two words, ü");
      assert.ok(m.extended.daprRuntimeVersion);
      const components = Object.fromEntries(m.components.map((x) => [x.name, `${x.type}/${x.version}`]));
      assert.deepEqual(components, {
        memory: "state.in-memory/v1",
        sqlite: "state.sqlite/v1",
        scoped: "state.in-memory/v1",
        secrets: "secretstores.local.file/v1",
        multi: "secretstores.local.file/v1",
      });
      const { capabilities } = m.components.find((x) => x.name === "sqlite");
      for (const want of ["ETAG", "TRANSACTIONAL", "TTL", "ACTOR"]) {
        assert.ok(capabilities.includes(want), `${want} is not among ${capabilities}`);
      }
    });

    it("is refused without the API token", async () => {
      const c = client("CALLER", protocol, { daprApiToken: "wrong" });
      c.daprClient.setIsInitialized(true); // else it would wait until it is let in
      await fails(protocol, () => c.state.get("memory", "key"), { status: 401, text: "invalid api token", code: Code.Unauthenticated, ...(isHTTP(protocol) ? {} : { text: "Unauthorized" }) });
    });

    it("shuts a sidecar down", async () => {
      const c = client(isHTTP(protocol) ? "DOOMED_HTTP" : "DOOMED_GRPC", protocol);
      await c.start();
      await c.sidecar.shutdown();
      await until(async () => assert.equal(await c.health.isHealthy(), false));
    });
  });
}
