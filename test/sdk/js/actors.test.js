"use strict";

const assert = require("node:assert/strict");
const { spawn } = require("node:child_process");
const { once } = require("node:events");
const path = require("node:path");
const { after, before, describe, it } = require("node:test");
const { ActorId, ActorProxyBuilder, CommunicationProtocolEnum } = require("@dapr/dapr");
const { Keeper, Reentrant, Brief } = require("./actor_app");
const { protocols, isHTTP, client, Code, fails, until } = require("./sidecars");

// Two instances of one app host the actors; the client's sidecar has no app.
const hosts = ["ACTORS_ONE", "ACTORS_TWO"];
const programs = [];
const callers = new Map(protocols.map(({ protocol }) => [protocol, client("CALLER", protocol)]));
const second = client("ACTORS_TWO", CommunicationProtocolEnum.HTTP);

const HTTP = CommunicationProtocolEnum.HTTP;

const actor = (protocol, type, id) => new ActorProxyBuilder(type, callers.get(protocol)).build(new ActorId(id));

const keeper = (id) => actor(HTTP, Keeper, id);

// awaitTicks waits for the calls of a timer or of reminders, which are only those so far.
const awaitTicks = (of, want) => until(async () => assert.deepEqual(await of.ticks(), want));

before(async () => {
  for (const role of hosts) {
    programs.push(spawn(process.execPath, [path.join(__dirname, "actor_app.js"), role], { stdio: ["pipe", "inherit", "inherit"] }));
  }
  const limit = Date.now() + 40_000;
  for (;;) {
    try {
      const places = await Promise.all(Array.from({ length: 20 }, (_, id) => keeper(`first ${id}`).where()));
      assert.deepEqual([...new Set(places)].sort(), hosts);
      return;
    } catch (error) {
      if (Date.now() > limit) {
        throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
});

after(() =>
  Promise.all(
    programs.map(async (program) => {
      if (program.exitCode === null) {
        const exit = once(program, "exit");
        program.kill("SIGKILL");
        await exit;
      }
    }),
  ),
);

describe("actors", () => {
  for (const { name, protocol } of protocols) {
    // The SDK's gRPC client does not say that it sends JSON, so that the SDK's server takes no arguments from it.
    describe(`called by ${name} without arguments`, { concurrency: true }, () => {
      const of = (type, id) => actor(protocol, type, `${name} ${id}`);

      it("are in one place each", async () => {
        const actors = Array.from({ length: 20 }, (_, i) => of(Keeper, `place ${i}`));
        const where = () => Promise.all(actors.map((a) => a.where()));
        const places = await where();
        assert.deepEqual([...new Set(places)].sort(), hosts);
        assert.deepEqual(await where(), places);
        for (const a of actors) {
          assert.equal(Number(await a.activations()), 1);
        }
      });

      it("take one turn at a time", async () => {
        const a = of(Keeper, "turns");
        assert.deepEqual(await Promise.all(Array.from({ length: 24 }, async () => Number(await a.turn()))), Array(24).fill(1));
      });

      it("have a type", async () => {
        const Missing = { Missing: class extends Keeper {} }.Missing;
        await fails(protocol, () => of(Missing, "x").where(), {
          status: 500, errorCode: "ERR_ACTOR_INVOKE_METHOD", code: Code.FailedPrecondition, text: "did not find address for actor 'Missing/",
        });
      });
    });
  }

  describe("called by HTTP", { concurrency: true }, () => {
    const of = (type, id) => actor(HTTP, type, id);

    it("answer", async () => {
      const a = of(Keeper, "answers");
      for (const [n, sum] of [[1, 1], [2, 3], [40, 43]]) {
        assert.equal(Number(await a.add(n)), sum);
      }
      const odd = of(Keeper, "a b+c=%2Bü"); // the SDK escapes ids in the URL
      assert.equal(Number(await odd.add(5)), 5);
      assert.equal(Number(await odd.add(5)), 10);
    });

    it("have state", async () => {
      const a = of(Keeper, "state");
      assert.deepEqual(await a.get("key"), { found: false });
      for (const value of ["text", { nested: [1, 2.5, null, "ü"] }, [1], "x".repeat(50_000)]) {
        await a.put("key", value);
        assert.deepEqual(await a.get("key"), { found: true, value });
      }
      assert.deepEqual(await of(Keeper, "other state").get("key"), { found: false });
      assert.equal(String(await a.remove("key")), "true");
      assert.deepEqual(await a.get("key"), { found: false });
    });

    it("fail", async () => {
      const a = of(Keeper, "failing");
      await fails(HTTP, () => a.putAndFail("key"), { status: 500, errorCode: "ERR_ACTOR_INVOKE_METHOD", text: "error from actor service: (500)" });
      assert.deepEqual(await a.get("key"), { found: false });
    });

    it("have timers", async () => {
      const once = of(Keeper, "timer once");
      // The SDK hands objects out as text.
      await once.startTimer("once", "one", 50);
      await awaitTicks(once, [["timer", "one"]]);
      const many = of(Keeper, "timer many");
      await many.startTimer("many", "again", 0, 100);
      await until(async () => assert.ok((await many.ticks()).length >= 3));
      await many.stopTimer("many");
      const got = await many.ticks();
      assert.deepEqual(got, got.map(() => ["timer", "again"]));
      await many.startTimer("brief", "brief", 100, 900, 1500);
      // Had it no end, or the other not ended, there would be more of them by the time of the last of this one.
      await many.startTimer("last", "last", 2400);
      await awaitTicks(many, [...got, ["timer", "brief"], ["timer", "brief"], ["timer", "last"]]);
    });

    it("have reminders", async () => {
      const once = of(Keeper, "reminder once");
      await once.startReminder("once", "one", 0);
      await awaitTicks(once, [["reminder", "one"]]);
      const many = of(Keeper, "reminder many");
      await many.startReminder("many", "again", 0, 200);
      await until(async () => assert.ok((await many.ticks()).length >= 3));
      await many.stopReminder("many");
      const got = await many.ticks();
      assert.deepEqual(got, got.map(() => ["reminder", "again"]));
      await many.startReminder("last", "last", 800);
      await until(async () => assert.deepEqual((await many.ticks()).at(-1), ["reminder", "last"]));
      assert.ok((await many.ticks()).length <= got.length + 2); // one may have been on its way
    });

    it("are reentrant", async () => {
      const [a, b] = ["reentrant", "other"];
      const first = of(Reentrant, a);
      assert.deepEqual(await first.visit([b, a]), [a, b, a]);
      assert.deepEqual(await first.visit([a]), [a, a]);
      await assert.rejects(first.visit(Array(5).fill(a)), /error from actor service/);
      assert.deepEqual(await first.visit([]), [a]);
    });

    it("are deactivated when idle, and keep their state and reminders", async () => {
      const brief = of(Brief, "brief");
      await brief.add(5);
      await brief.startReminder("still", "here", 2500);
      await until(async () => assert.ok(Number(await brief.activations()) >= 2), 800); // it must not be called to be idle
      assert.equal(Number(await brief.add(1)), 6);
      await awaitTicks(brief, [["reminder", "here"]]);
    });
  });

  it("move when one of two hosts is gone, with their state and reminders", async () => {
    // Who has which actor is up to chance: of so many some live with the second.
    const moving = [];
    for (let i = 0; i < 64 && moving.length < 4; i++) {
      const id = `moving ${i}`;
      if ((await keeper(id).where()) === "ACTORS_TWO") {
        moving.push(keeper(id));
      }
    }
    assert.notEqual(moving.length, 0);
    for (const a of moving) {
      await a.add(7);
      await a.startReminder("still", "here", 0, 250);
    }
    await second.sidecar.shutdown();
    for (const a of moving) {
      await until(async () => assert.equal(await a.where(), "ACTORS_ONE"));
      assert.equal(Number(await a.add(1)), 8);
      const before = (await a.ticks()).length;
      await until(async () => assert.ok((await a.ticks()).length > before));
      await a.stopReminder("still");
    }
  });
});
