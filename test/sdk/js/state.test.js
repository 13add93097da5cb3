"use strict";

const assert = require("node:assert/strict");
const { describe, it } = require("node:test");
const { StateConcurrencyEnum, StateConsistencyEnum } = require("@dapr/dapr");
const { protocols, isHTTP, client, Code, fails, succeeds, until } = require("./sidecars");

const mismatch = (errorCode) => ({ status: 409, errorCode, code: Code.Aborted, text: "possible etag mismatch" });
const notFound = { status: 400, errorCode: "ERR_STATE_STORE_NOT_FOUND", code: Code.InvalidArgument, text: "state store nowhere is not found" };

for (const { name, protocol } of protocols) {
  for (const store of ["memory", "sqlite"]) {
    describe(`state of ${store} over ${name}`, () => {
      const c = client("CALLER", protocol);
      const key = (k) => `js-${name}-${k}`;
      // Only the bulk get of the SDK tells etags.
      const etag = async (k) => (await c.state.getBulk(store, [k]))[0].etag;

      it("saves, gets and deletes", async () => {
        const k = key("basic");
        assert.equal(await c.state.get(store, k), "");
        for (const value of ["text", { nested: [1, 2.5, "ü", true] }, "x".repeat(1 << 20)]) {
          await succeeds(c.state.save(store, [{ key: k, value }]));
          assert.deepEqual(await c.state.get(store, k), value);
        }
        await succeeds(c.state.delete(store, k));
        assert.equal(await c.state.get(store, k), "");
        await succeeds(c.state.delete(store, k));
      });

      it("checks etags", async () => {
        const k = key("etag");
        await succeeds(c.state.save(store, [{ key: k, value: "1" }]));
        const first = await etag(k);
        assert.ok(first);
        await succeeds(c.state.save(store, [{ key: k, value: "2", etag: first }]));
        const second = await etag(k);
        assert.notEqual(second, first);
        await fails(protocol, () => c.state.save(store, [{ key: k, value: "3", etag: first }]), mismatch("ERR_STATE_SAVE"));
        await fails(protocol, () => c.state.delete(store, k, { etag: first }), mismatch("ERR_STATE_DELETE"));
        assert.equal(String(await c.state.get(store, k)), "2");
        await succeeds(c.state.delete(store, k, { etag: second, concurrency: StateConcurrencyEnum.CONCURRENCY_FIRST_WRITE }));
        assert.equal(await c.state.get(store, k), "");
      });

      it("takes concurrency and consistency", async () => {
        const k = key("options");
        const options = { concurrency: StateConcurrencyEnum.CONCURRENCY_FIRST_WRITE, consistency: StateConsistencyEnum.CONSISTENCY_STRONG };
        await succeeds(c.state.save(store, [{ key: k, value: "first", options: { ...options } }]));
        await assert.rejects(async () => succeeds(c.state.save(store, [{ key: k, value: "second", options: { ...options } }])));
        for (const consistency of [StateConsistencyEnum.CONSISTENCY_EVENTUAL, StateConsistencyEnum.CONSISTENCY_STRONG]) {
          assert.equal(await c.state.get(store, k, { consistency }), "first");
        }
        await succeeds(c.state.save(store, [{ key: k, value: "third", options: { concurrency: StateConcurrencyEnum.CONCURRENCY_LAST_WRITE } }]));
        assert.equal(await c.state.get(store, k), "third");
      });

      it("forgets after the time to live", async () => {
        const k = key("ttl");
        await succeeds(c.state.save(store, [{ key: k, value: "short", metadata: { ttlInSeconds: "1" } }, { key: `${k}-long`, value: "long", metadata: { ttlInSeconds: "100" } }]));
        assert.equal(await c.state.get(store, k), "short");
        await until(async () => assert.equal(await c.state.get(store, k), ""));
        assert.equal(await c.state.get(store, `${k}-long`), "long");
        // As an option of the whole call.
        await succeeds(c.state.save(store, [{ key: k, value: "short" }], { metadata: { ttlInSeconds: "1" } }));
        await until(async () => assert.equal(await c.state.get(store, k), ""));
      });

      it("saves and gets in bulk", async () => {
        const keys = Array.from({ length: 12 }, (_, i) => key(`bulk-${i}`));
        await succeeds(c.state.save(store, keys.map((k, i) => ({ key: k, value: { i } }))));
        const items = await c.state.getBulk(store, [...keys, key("missing")], { parallelism: 4 });
        assert.equal(items.length, keys.length + 1);
        const found = new Map(items.map((x) => [x.key, x]));
        keys.forEach((k, i) => {
          assert.deepEqual(found.get(k).data, { i });
          assert.ok(found.get(k).etag);
        });
        assert.ok(!found.get(key("missing")).data);
        assert.ok(!found.get(key("missing")).etag);
      });

      it("runs transactions", async () => {
        const [a, b, old] = [key("tx-a"), key("tx-b"), key("tx-old")];
        await succeeds(c.state.save(store, [{ key: old, value: "old" }]));
        await c.state.transaction(store, [
          { operation: "upsert", request: { key: a, value: "one" } },
          { operation: "upsert", request: { key: b, value: "two" } },
          { operation: "delete", request: { key: old } },
        ]);
        assert.equal(await c.state.get(store, a), "one");
        assert.equal(await c.state.get(store, b), "two");
        assert.equal(await c.state.get(store, old), "");
        await fails(protocol, () => c.state.transaction(store, [
          { operation: "upsert", request: { key: b, value: "three" } },
          { operation: "upsert", request: { key: a, value: "four", etag: isHTTP(protocol) ? "4711" : { value: "4711", toString: () => "4711" } } },
        ]), { status: 500, errorCode: "ERR_STATE_TRANSACTION", code: Code.Internal, text: "error while executing state transaction" });
        assert.equal(await c.state.get(store, b), "two"); // nothing of it was done
        await c.state.transaction(store, [{ operation: "upsert", request: { key: a, value: "five", etag: await etag(a) } }], { trace: "no" });
        assert.equal(await c.state.get(store, a), "five");
        await fails(protocol, () => c.state.transaction(store, [{ operation: "increment", request: { key: a, value: "x" } }]),
          { status: 400, errorCode: "ERR_NOT_SUPPORTED_STATE_OPERATION", code: Code.Unimplemented, text: "operation type increment not supported" });
      });
    });
  }

  describe(`state over ${name}`, () => {
    const c = client("CALLER", protocol);

    it("says what is wrong", async () => {
      await fails(protocol, () => c.state.get("nowhere", "key"), notFound);
      await fails(protocol, () => c.state.save("nowhere", [{ key: "key", value: "x" }]), notFound);
      await fails(protocol, () => c.state.delete("nowhere", "key"), notFound);
      await fails(protocol, () => c.state.getBulk("nowhere", ["key"], { parallelism: 1 }), notFound);
      await fails(protocol, () => c.state.transaction("nowhere", [{ operation: "delete", request: { key: "key" } }]), notFound);
      await fails(protocol, () => c.state.save("memory", [{ key: "a||b", value: "x" }]), { status: 400, errorCode: "ERR_MALFORMED_REQUEST", code: Code.InvalidArgument, text: "input key/keyPrefix 'a||b' can't contain '||'" });
    });

    it("keeps scoped components and the keys of apps apart", async () => {
      const other = client("HTTP_APP", protocol);
      await succeeds(c.state.save("scoped", [{ key: "key", value: "x" }]));
      await fails(protocol, () => other.state.save("scoped", [{ key: "key", value: "x" }]), { ...notFound, text: "state store scoped is not found" });
      await succeeds(c.state.save("sqlite", [{ key: "js-mine", value: "x" }]));
      assert.equal(await other.state.get("sqlite", "js-mine"), "");
    });
  });
}
