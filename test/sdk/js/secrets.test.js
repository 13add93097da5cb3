"use strict";

const assert = require("node:assert/strict");
const { describe, it } = require("node:test");
const { protocols, isHTTP, client, Code, fails } = require("./sidecars");

for (const { name, protocol } of protocols) {
  describe(`secrets over ${name}`, () => {
    const c = client("CALLER", protocol);

    it("gets secrets", async () => {
      assert.deepEqual(await c.secret.get("secrets", "plain"), { plain: "open sesame" });
      assert.deepEqual(await c.secret.get("secrets", "redis:password"), { "redis:password": "x" });
      assert.deepEqual(await c.secret.get("secrets", "redis:hosts:1"), { "redis:hosts:1": "b" });
      const many = await c.secret.get("multi", "redis");
      if (isHTTP(protocol)) {
        assert.deepEqual(many, { password: "x", "hosts:0": "a", "hosts:1": "b" });
      } else {
        assert.equal(Object.keys(many).length, 1); // over gRPC the SDK returns one entry only
      }
    });

    it("gets all secrets that the app may have", async () => {
      const all = await c.secret.getBulk("secrets");
      delete all["sqlite-path"]; // differs from run to run
      assert.deepEqual(all, {
        plain: { plain: "open sesame" },
        "redis:password": { "redis:password": "x" },
        "redis:hosts:0": { "redis:hosts:0": "a" },
        "redis:hosts:1": { "redis:hosts:1": "b" },
      });
      assert.deepEqual((await c.secret.getBulk("multi")).redis, { password: "x", "hosts:0": "a", "hosts:1": "b" });
    });

    it("says what is wrong", async () => {
      const get = (store, key, want) => fails(protocol, () => c.secret.get(store, key), want);
      await get("secrets", "missing", { status: 500, errorCode: "ERR_SECRET_GET", code: Code.Internal, text: "failed getting secret with key missing from secret store secrets" });
      await get("secrets", "forbidden", { status: 403, errorCode: "ERR_PERMISSION_DENIED", code: Code.PermissionDenied, text: 'access denied by policy to get "forbidden" from "secrets"' });
      await get("nowhere", "plain", { status: 401, errorCode: "ERR_SECRET_STORE_NOT_FOUND", code: Code.InvalidArgument, text: "failed finding secret store with key nowhere" });
      await fails(protocol, () => c.secret.getBulk("nowhere"), { status: 401, errorCode: "ERR_SECRET_STORE_NOT_FOUND", code: Code.InvalidArgument, text: "failed finding secret store with key nowhere" });
    });
  });
}
