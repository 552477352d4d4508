// What the quiche server and the quiche client have in common: the TSQ message in its smallest form, the quiche
// configuration, and the loop that moves packets between a quiche connection and a UDP socket.

import { createSocket } from 'node:dgram';
import quiche from '@matrixai/quic/native/quiche.js';

export { quiche };
export const ALPN = 'tsq/1';
export const ID_LENGTH = 16;
export const RESPONSE_LENGTH = 38;

const NONCE = 1;
const NONCE_LENGTH = 16;
const NONCE_TLV_LENGTH = 2 + NONCE_LENGTH;
const SECONDS_1900_TO_1970 = 2_208_988_800n;

// Now as an NTP timestamp: 32.32 fixed point since 1900, modulo 2^32 s. Date.now() knows only whole milliseconds.
export function ntpNow() {
  const ns = BigInt(Math.round((performance.timeOrigin + performance.now()) * 1000)) * 1000n;
  return BigInt.asUintN(64, (ns << 32n) / 1_000_000_000n + (SECONDS_1900_TO_1970 << 32n));
}

// b - a in NTP units, right across the era boundary of 2036 too.
export function ntpDifference(a, b) {
  return BigInt.asIntN(64, b - a);
}

export function request(nonce) {
  return Buffer.concat([Buffer.from([NONCE, NONCE_LENGTH]), nonce]);
}

// True for a whole number of TLVs that begins with the Nonce and holds no second one. Of the optional TLVs this peer
// knows none, and skips them all.
export function isRequest(message) {
  if (message.length < NONCE_TLV_LENGTH || message[0] !== NONCE || message[1] !== NONCE_LENGTH) return false;
  let at = NONCE_TLV_LENGTH;
  while (at + 2 <= message.length) {
    if (message[at] === NONCE) return false;
    at += 2 + message[at + 1];
  }
  return at === message.length;
}

// The Nonce TLV verbatim, T2, T3. T3 is read last, so that it is as near to the wire as this program can make it.
export function response(message, t2) {
  const answer = Buffer.alloc(RESPONSE_LENGTH);
  answer.set(message.subarray(0, NONCE_TLV_LENGTH));
  answer.set([2, 8], 18);
  answer.writeBigUInt64BE(t2, 20);
  answer.set([3, 8], 28);
  answer.writeBigUInt64BE(ntpNow(), 30);
  return answer;
}

// One Config serves all connections of a process: they then share one TLS context, and with it the tickets.
export function configure({ alpn, datagrams, peerStreams }) {
  const config = new quiche.Config();
  config.setApplicationProtos([alpn]);
  config.setMaxIdleTimeout(30_000);
  config.setMaxRecvUdpPayloadSize(quiche.MAX_DATAGRAM_SIZE);
  config.setMaxSendUdpPayloadSize(quiche.MAX_DATAGRAM_SIZE);
  config.setDisableActiveMigration(true);
  config.enableEarlyData();
  config.enableDgram(datagrams, 1000, 1000);
  config.setInitialMaxStreamsBidi(peerStreams);
  config.setInitialMaxData(1 << 20);
  config.setInitialMaxStreamDataBidiLocal(1 << 10);
  config.setInitialMaxStreamDataBidiRemote(1 << 10);
  return config;
}

// A bound UDP socket. Its addresses are always literal: without the resolver a packet leaves at once, in this turn.
export function bind(host, port, onMessage) {
  const socket = createSocket({ type: 'udp4', lookup: (name, options, done) => done(null, name, 4) });
  socket.on('message', onMessage);
  return new Promise((resolve, reject) => {
    socket.once('error', reject);
    socket.bind(port, host, () => {
      socket.off('error', reject);
      // A peer that has gone away is no reason to stop: quiche's own timers end its connection.
      socket.on('error', (error) => console.error(`socket: ${error.message}`));
      resolve(socket);
    });
  });
}

export function endpoint({ address, port }) {
  return { host: address, port };
}

// Drives one quiche connection. `progress` is called after everything that may have changed it: packets, its timer.
export class Driver {
  #socket;
  #progress;
  #timer;
  #stopped = false;
  #unsent = new Map(); // stream id -> the bytes that end the stream and that quiche has not taken yet

  constructor(conn, socket, progress) {
    this.conn = conn;
    this.#socket = socket;
    this.#progress = progress;
  }

  receive(data, remote) {
    try {
      this.conn.recv(data, { from: endpoint(remote), to: endpoint(this.#socket.address()) });
    } catch (error) {
      // quiche has set the connection's own error (and flush sends it), or the packet was not for us: RFC 9000 §5.2.
      console.error(`recv: ${error.message}`);
    }
    this.#progress();
    this.flush();
  }

  // Sends all that quiche has ready, then waits for its timer. To be called after every use of `conn`.
  flush() {
    if (this.#stopped) return;
    for (const [id, bytes] of this.#unsent) this.endStream(id, bytes);
    for (;;) {
      // A fresh buffer each time: the socket may hold on to it.
      const packet = Buffer.allocUnsafe(quiche.MAX_DATAGRAM_SIZE);
      const sent = this.conn.send(packet);
      if (sent === null) break;
      const [length, { to }] = sent;
      this.#socket.send(packet, 0, length, to.port, to.host);
    }
    clearTimeout(this.#timer);
    const ms = this.conn.timeout();
    // quiche rounds down; a timer that fires early would only spin.
    if (ms !== null && !this.conn.isClosed()) this.#timer = setTimeout(() => this.#expire(), ms + 1);
  }

  // Writes `bytes` and FIN. quiche takes no more than the congestion window has room for; flush() offers it the rest.
  endStream(id, bytes) {
    let taken = bytes.length; // of a stream that the peer has stopped nothing is left to send
    try {
      taken = this.conn.streamSend(id, bytes, true) ?? 0;
    } catch (error) {
      console.error(`stream ${id}: ${error.message}`);
    }
    if (taken < bytes.length) this.#unsent.set(id, bytes.subarray(taken));
    else this.#unsent.delete(id);
  }

  // True while a stream waits for room.
  get full() {
    return this.#unsent.size > 0;
  }

  close() {
    this.conn.close(true, 0, Buffer.alloc(0));
    this.flush();
    this.stop();
  }

  // For good: `progress` may call it in the middle of receive(), which then has nothing more to flush.
  stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  #expire() {
    this.conn.onTimeout();
    this.#progress();
    this.flush();
  }
}

// Reads what has come on a stream: [bytes, fin], or null after a reset.
export function readStream(conn, id) {
  const parts = [];
  const buffer = Buffer.alloc(1 << 10);
  try {
    for (;;) {
      const got = conn.streamRecv(id, buffer);
      if (got === null) return [Buffer.concat(parts), false];
      parts.push(Buffer.from(buffer.subarray(0, got[0])));
      if (got[1]) return [Buffer.concat(parts), true];
    }
  } catch (error) {
    console.error(`stream ${id}: ${error.message}`);
    return null;
  }
}
