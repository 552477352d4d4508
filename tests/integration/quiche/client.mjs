// A TSQ client on Cloudflare quiche: a foreign peer for the integration tests.
//
//   node client.mjs --host 127.0.0.1 --port N --server-name localhost --ca ca.pem [--count 200] [--burst 1]
//                   [--session FILE] [--stream] [--alpn tsq/1] [--timeout 20]
//
// Asks `count` times, `burst` requests at once, and checks every answer. With --session it resumes the session that
// FILE holds, puts the first request into 0-RTT where the ticket allows it, and leaves the newest session in FILE. With
// --stream each request travels on a stream of its own. On stdout, one JSON object at the end; exit status 0 if every
// request was answered well.

import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import {
  ALPN, Driver, ID_LENGTH, RESPONSE_LENGTH, bind, configure, endpoint, ntpDifference, ntpNow, quiche, readStream,
  request,
} from './peer.mjs';

const REPEAT_MS = 1000; // QUIC never repeats a DATAGRAM frame: ask again, under a new nonce, after this
const TICKET_WAIT_MS = 500; // how long to stay for a session ticket after the last answer
const NEAR = 60n << 32n; // T2 must be this near to our own time

const { values: options } = parseArgs({
  options: {
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string' },
    'server-name': { type: 'string', default: 'localhost' },
    ca: { type: 'string' },
    count: { type: 'string', default: '200' },
    burst: { type: 'string', default: '1' },
    session: { type: 'string' },
    stream: { type: 'boolean', default: false },
    alpn: { type: 'string', default: ALPN },
    timeout: { type: 'string', default: '20' },
  },
});
if (!options.port || !options.ca) {
  console.error('usage: node client.mjs --port N --ca ca.pem [options: see the head of this file]');
  process.exit(2);
}
const count = Number(options.count);
const burst = Number(options.burst);

const config = configure({ alpn: options.alpn, datagrams: true, peerStreams: 0 });
config.loadVerifyLocationsFromFile(options.ca);
config.verifyPeer(true);

const socket = await bind('127.0.0.1', 0, (data, remote) => driver.receive(data, remote));
const conn = quiche.Connection.connect(
  options['server-name'],
  randomBytes(ID_LENGTH),
  endpoint(socket.address()),
  { host: options.host, port: Number(options.port) },
  config,
);
const driver = new Driver(conn, socket, progress);

const waiting = new Set(); // nonces in hex that have no answer yet
const forgotten = new Set(); // nonces that we gave up: a late answer to one is neither good nor bad
const streams = new Map(); // stream id -> the part of the answer that has come
let nextStream = 0;
let sent = 0;
let packets = 0; // QUIC packets that carried the requests
let answered = 0;
let bad = 0;
let earlyNonce = null; // the nonce that left in 0-RTT
let early = false; // and its answer came: the server took it
let repeatTimer;
let ticketTimer;

function ask() {
  const nonce = randomBytes(16);
  if (options.stream) {
    driver.endStream(nextStream, request(nonce));
    streams.set(nextStream, Buffer.alloc(0));
    nextStream += 4;
  } else {
    conn.dgramSend(request(nonce));
  }
  waiting.add(nonce.toString('hex'));
  sent += 1;
}

// Asks `wanted` times before it lets quiche send, so that quiche puts the DATAGRAM frames into one packet. Streams the
// server must allow, and their bytes the congestion window: what has no room now waits for the next call.
function askTogether(wanted) {
  const room = options.stream ? Math.min(wanted, conn.peerStreamsLeftBidi()) : wanted;
  if (sent === 0) driver.flush(); // the end of the handshake, so that it does not count below
  const before = conn.stats().sent;
  for (let i = 0; i < room && !driver.full; i += 1) ask();
  driver.flush();
  packets += conn.stats().sent - before;
  if (!options.stream) {
    clearTimeout(repeatTimer);
    repeatTimer = setTimeout(repeat, REPEAT_MS);
  }
}

function repeat() {
  for (const nonce of waiting) forgotten.add(nonce);
  waiting.clear();
  progress();
}

function check(message) {
  const nonce = message.subarray(2, 18).toString('hex');
  if (forgotten.delete(nonce)) {
    early ||= nonce === earlyNonce; // late, on a machine that is busy
    return;
  }
  const fault = faultOf(message, nonce);
  if (fault) {
    bad += 1;
    console.error(`bad answer: ${fault}: ${message.toString('hex')}`);
    return;
  }
  waiting.delete(nonce);
  answered += 1;
  early ||= nonce === earlyNonce;
}

function faultOf(message, nonce) {
  if (message.length !== RESPONSE_LENGTH) return `${message.length} bytes`;
  if (message.readUInt16BE(0) !== 0x0110 || !waiting.has(nonce)) return 'not a nonce of ours';
  if (message.readUInt16BE(18) !== 0x0208 || message.readUInt16BE(28) !== 0x0308) return 'no T2 and T3';
  const t2 = message.readBigUInt64BE(20);
  if (ntpDifference(t2, message.readBigUInt64BE(30)) < 0n) return 'T3 before T2';
  const apart = ntpDifference(t2, ntpNow());
  return apart > NEAR || apart < -NEAR ? 'T2 far from now' : null;
}

function readAnswers() {
  if (!options.stream) {
    for (let message; (message = conn.dgramRecvVec()) !== null; ) check(Buffer.from(message));
    return;
  }
  for (const id of conn.readable()) {
    const [bytes, fin] = readStream(conn, id) ?? [Buffer.alloc(0), true];
    const message = Buffer.concat([streams.get(id), bytes]);
    streams.set(id, message);
    if (fin) {
      streams.delete(id);
      check(message);
    }
  }
}

function progress() {
  readAnswers();
  if (conn.isClosed() || conn.isDraining()) {
    finish(`connection ended: ${ending()}`);
  } else if (bad > 0) {
    finish(`${bad} bad answers`);
  } else if (!conn.isEstablished()) {
    return; // what may be sent before that, start() has sent
  } else if (!options.stream && conn.dgramMaxWritableLen() === null) {
    finish('the server offers no DATAGRAM frames');
  } else if (answered < count) {
    if (waiting.size === 0) askTogether(Math.min(burst, count - answered));
  } else if (!options.session || conn.session() !== null) {
    finish(null);
  } else {
    ticketTimer ??= setTimeout(() => finish(null), TICKET_WAIT_MS);
  }
}

function ending() {
  if (conn.isTimedOut()) return 'timed out';
  const peer = conn.peerError();
  const { isApp, errorCode, reason } = peer ?? conn.localError();
  const code = `${isApp ? 'application' : 'transport'} error 0x${errorCode.toString(16)}`;
  return `by ${peer ? 'the server' : 'us'}, ${code} ${Buffer.from(reason)}`.trimEnd();
}

let finished = false;
function finish(error) {
  if (finished) return;
  finished = true;
  for (const timer of [deadline, repeatTimer, ticketTimer]) clearTimeout(timer);
  const session = conn.session();
  if (options.session && session !== null) writeFileSync(options.session, session);
  const ok = error === null;
  const stats = Object.fromEntries(Object.entries(conn.stats()).map(([name, value]) => [name, Number(value)]));
  const alpn = Buffer.from(conn.applicationProto()).toString();
  const resumed = conn.isResumed();
  driver.close();
  console.log(JSON.stringify({ ok, answered, sent, packets, bad, resumed, early, alpn, stats, error }));
  process.exitCode = ok ? 0 : 1;
  socket.close(); // the last thing that keeps the process alive
}

const deadline = setTimeout(() => finish(`no end after ${options.timeout} s`), Number(options.timeout) * 1000);

function start() {
  if (options.session && existsSync(options.session)) conn.setSession(readFileSync(options.session));
  // quiche makes the 0-RTT keys while it writes its ClientHello, and refuses a DATAGRAM frame before: the request can
  // only follow the ClientHello in a UDP datagram of its own.
  driver.flush();
  // The session may come from a server without datagrams.
  const possible = options.stream || conn.dgramMaxWritableLen() !== null;
  if (conn.isInEarlyData() && possible) {
    askTogether(1);
    [earlyNonce = null] = waiting;
  }
}

start();
