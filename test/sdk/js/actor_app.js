// An app that hosts actors. It is a program of its own, for the SDK has one actor runtime in a process:
//
//	node actor_app.js ROLE
//
// It ends with its input, and so with the program that started it.
"use strict";

const { AsyncLocalStorage } = require("node:async_hooks");
const { AbstractActor, CommunicationProtocolEnum, DaprServer, Temporal } = require("@dapr/dapr");
const { env, sidecar, clientOptions } = require("./sidecars");

const role = process.argv[2];
const header = "dapr-reentrancy-id";
const chain = new AsyncLocalStorage(); // the value of that header in the turn

const duration = (milliseconds) => (milliseconds === undefined ? undefined : Temporal.Duration.from({ seconds: Math.floor(milliseconds / 1000), milliseconds: milliseconds % 1000 }));

// Keeper keeps a sum, entries and what its timers and reminders have called it with.
class Keeper extends AbstractActor {
  turns = 0;

  get state() {
    return this.getStateManager();
  }

  async onActivate() {
    await this.state.addOrUpdateState("activations", 1, (_, old) => old + 1);
  }

  async activations() {
    return this.state.getState("activations");
  }

  async where() {
    return role;
  }

  async add(n) {
    return this.state.addOrUpdateState("sum", n, (_, old) => old + n);
  }

  async put(key, value) {
    await this.state.setState(key, value);
  }

  // get reads the store, whatever the actor has in memory.
  async get(key) {
    await this.state.clearCache();
    const [found, value] = await this.state.tryGetState(key);
    return { found, value };
  }

  async remove(key) {
    return this.state.tryRemoveState(key);
  }

  async putAndFail(key) {
    await this.state.setState(key, "never seen");
    throw new Error("the actor failed");
  }

  // turn is how many turns of this actor run at a time.
  async turn() {
    this.turns++;
    await new Promise((resolve) => setTimeout(resolve, 10));
    return this.turns--;
  }

  async ticks() {
    const [found, ticks] = await this.state.tryGetState("ticks");
    return found ? ticks : [];
  }

  async tick(...what) {
    await this.state.setState("ticks", [...(await this.ticks()), what]);
  }

  async startTimer(name, data, due, period, ttl) {
    await this.registerActorTimer(name, "onTimer", duration(due), duration(period), duration(ttl), data);
  }

  async stopTimer(name) {
    await this.unregisterActorTimer(name);
  }

  async onTimer(data) {
    await this.tick("timer", data);
  }

  async startReminder(name, data, due, period, ttl) {
    await this.registerActorReminder(name, duration(due), duration(period), duration(ttl), data);
  }

  async stopReminder(name) {
    await this.unregisterActorReminder(name);
  }

  async receiveReminder(data) {
    await this.tick("reminder", data);
  }

  // visit calls the first actor of a route with the rest of it, and returns who was called. The SDK's proxies do not pass the
  // header on that tells that a call belongs to a turn.
  async visit(route) {
    const self = this.getActorId().getId();
    if (route.length === 0) {
      return [self];
    }
    const [next, ...rest] = route;
    const url = `http://127.0.0.1:${sidecar(role).http}/v1.0/actors/${this.getActorType()}/${encodeURIComponent(next)}/method/visit`;
    const headers = { "content-type": "application/json", "dapr-api-token": env("DAPR_API_TOKEN"), [header]: chain.getStore() };
    const reply = await fetch(url, { method: "POST", headers, body: JSON.stringify([rest]) });
    if (!reply.ok) {
      throw new Error(await reply.text());
    }
    return [self, ...(await reply.json())];
  }
}

// Reentrant can be called by those whom it calls, three calls deep.
class Reentrant extends Keeper {}

// Brief is deactivated once it was idle for a moment.
class Brief extends Keeper {}

async function main() {
  const options = {
    ...clientOptions(role, CommunicationProtocolEnum.HTTP),
    actor: {
      actorIdleTimeout: "10m",
      actorScanInterval: "30s",
      drainOngoingCallTimeout: "5s",
      drainRebalancedActors: true,
      entitiesConfig: [
        { entities: ["Reentrant"], reentrancy: { enabled: true, maxStackDepth: 3 } },
        { entities: ["Brief"], actorIdleTimeout: "300ms", actorScanInterval: "100ms" },
      ],
    },
  };
  const server = new DaprServer({ serverHost: "127.0.0.1", serverPort: sidecar(role).app, communicationProtocol: CommunicationProtocolEnum.HTTP, clientOptions: options, logger: options.logger });
  const app = await server.daprServer.getServer();
  app.use((req, _res, next) => chain.run(req.headers[header], next));
  await server.actor.init();
  for (const type of [Keeper, Reentrant, Brief]) {
    await server.actor.registerActor(type);
  }
  await server.start();
}

if (require.main === module) {
  process.stdin.resume().on("end", () => process.exit());
  main().catch((error) => {
    console.error(error);
    process.exit(1);
  });
}

module.exports = { Keeper, Reentrant, Brief };
