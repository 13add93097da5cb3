// The sidecars that the tests of the folder above have started, and clients for them.
"use strict";

const assert = require("node:assert/strict");
const { after } = require("node:test");
const { CommunicationProtocolEnum, DaprClient, LogLevel } = require("@dapr/dapr");

// env is a variable set by the tests of the folder above.
function env(name) {
  const value = process.env[name];
  if (!value) {
    throw new Error(`${name} is not in the environment; run this suite with go test ./test/sdk in the root of the repository`);
  }
  return value;
}

const protocols = [
  { name: "HTTP", protocol: CommunicationProtocolEnum.HTTP },
  { name: "gRPC", protocol: CommunicationProtocolEnum.GRPC },
];

const isHTTP = (protocol) => protocol === CommunicationProtocolEnum.HTTP;

// sidecar is the id and the ports of a sidecar by its role, such as CALLER.
function sidecar(role) {
  return { id: env(`SDK_${role}_ID`), http: env(`SDK_${role}_HTTP_PORT`), grpc: env(`SDK_${role}_GRPC_PORT`), app: process.env[`SDK_${role}_APP_PORT`] };
}

function clientOptions(role, protocol) {
  const { http, grpc } = sidecar(role);
  return {
    daprHost: "127.0.0.1",
    daprPort: isHTTP(protocol) ? http : grpc,
    communicationProtocol: protocol,
    logger: { level: LogLevel.Error, service: { error() {}, warn() {}, info() {}, verbose() {}, debug() {} } },
  };
}

// client is a client of a sidecar, stopped after the tests of the file.
function client(role, protocol, options = {}) {
  const c = new DaprClient({ ...clientOptions(role, protocol), ...options });
  after(() => c.stop());
  return c;
}

// The gRPC statuses that the tests look for.
const Code = { Unknown: 2, InvalidArgument: 3, NotFound: 5, PermissionDenied: 7, FailedPrecondition: 9, Aborted: 10, Unimplemented: 12, Internal: 13, Unauthenticated: 16 };

// checkError checks an error of a client: over HTTP { status, errorCode, text }, over gRPC { code, text }.
function checkError(protocol, error, want) {
  assert.ok(error instanceof Error, `no error, want ${JSON.stringify(want)}`);
  if (isHTTP(protocol)) {
    const reply = JSON.parse(error.message);
    assert.equal(reply.status, want.status, error.message);
    if (want.errorCode) {
      assert.equal(JSON.parse(reply.error_msg).errorCode, want.errorCode);
    }
    assert.ok(reply.error_msg.includes(JSON.stringify(want.text).slice(1, -1)), `${reply.error_msg} does not say ${want.text}`);
    return;
  }
  assert.equal(error.code, want.code, error.message);
  assert.ok(error.message.includes(want.text), `${error.message} does not say ${want.text}`);
}

// fails checks that a call fails as wanted. Some calls of the SDK return the error, others throw it.
async function fails(protocol, call, want) {
  let error;
  try {
    error = (await call())?.error;
  } catch (e) {
    error = e;
  }
  checkError(protocol, error, want);
}

// succeeds checks that a call neither throws nor returns an error.
async function succeeds(call) {
  const result = await call;
  assert.equal(result?.error, undefined);
  return result;
}

// until repeats a check until it holds, for ten seconds at most, with a pause between in milliseconds.
async function until(check, pause = 20) {
  const limit = Date.now() + 10_000;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() > limit) {
        throw error;
      }
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

module.exports = { env, protocols, isHTTP, sidecar, client, clientOptions, Code, fails, succeeds, until };
