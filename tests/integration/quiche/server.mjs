// A TSQ server on Cloudflare quiche, on 127.0.0.1: a foreign peer for the integration tests and for benchmarks.
//
//   node server.mjs --cert cert.pem --key key.pem [--host 127.0.0.1] [--port 0] [--no-dgram]
//
// Configured as the reference implementation is: datagrams, no streams, no Retry, no migration, early data. With
// --no-dgram it offers streams in place of datagrams, so that a client has to fall back to Stream Mode. On stdout, one
// JSON object a line: "listening", then "established" for each connection, and "summary" after SIGTERM.

import { randomBytes } from 'node:crypto';
import { parseArgs } from 'node:util';
import {
  ALPN, Driver, ID_LENGTH, bind, configure, endpoint, isRequest, ntpNow, quiche, readStream, response,
} from './peer.mjs';

// The reference client never ends its stream, and such a stream is never given back: allow enough for a test.
const STREAMS = 1000;
const MALFORMED = Buffer.from([249, 2, 1, 0]); // Error TLV, code 1, no reason: Stream Mode only
const TICKET_KEY_LENGTH = 48;

const { values: options } = parseArgs({
  options: {
    cert: { type: 'string' },
    key: { type: 'string' },
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string', default: '0' },
    'no-dgram': { type: 'boolean', default: false },
  },
});
if (!options.cert || !options.key) {
  console.error('usage: node server.mjs --cert cert.pem --key key.pem [--host 127.0.0.1] [--port 0] [--no-dgram]');
  process.exit(2);
}

const config = configure({
  alpn: ALPN,
  datagrams: !options['no-dgram'],
  peerStreams: options['no-dgram'] ? STREAMS : 0,
});
config.loadCertChainFromPemFile(options.cert);
config.loadPrivKeyFromPemFile(options.key);
config.setTicketKey(randomBytes(TICKET_KEY_LENGTH));

const sessions = new Map(); // connection ID in hex -> Session; two IDs each
let answered = 0;
let established = 0;

function report(event) {
  console.log(JSON.stringify(event));
}

// One client's connection.
class Session {
  #ids;
  #driver;
  #t2;
  #announced = false;
  #early = false; // a request was answered before the handshake was complete
  #streams = new Map(); // stream id -> what has come so far, or null once it is answered

  constructor(header, remote) {
    const scid = randomBytes(ID_LENGTH);
    // The client's first packets still carry the ID that it made up itself.
    this.#ids = [scid, header.dcid].map((id) => Buffer.from(id).toString('hex'));
    for (const id of this.#ids) sessions.set(id, this);
    const conn = quiche.Connection.accept(scid, null, endpoint(socket.address()), endpoint(remote), config);
    this.#driver = new Driver(conn, socket, () => this.#progress());
  }

  receive(data, remote, t2) {
    this.#t2 = t2;
    this.#driver.receive(data, remote);
  }

  close() {
    this.#driver.close();
  }

  #progress() {
    const { conn } = this.#driver;
    if (options['no-dgram']) this.#answerStreams(conn);
    else this.#answerDatagrams(conn);
    if (conn.isEstablished() && !this.#announced) {
      this.#announced = true;
      established += 1;
      const alpn = Buffer.from(conn.applicationProto()).toString();
      report({ event: 'established', resumed: conn.isResumed(), alpn, early: this.#early });
    }
    if (conn.isClosed()) {
      this.#driver.stop();
      for (const id of this.#ids) sessions.delete(id);
    }
  }

  #answerDatagrams(conn) {
    for (let message; (message = conn.dgramRecvVec()) !== null; ) {
      if (!isRequest(message) || conn.dgramMaxWritableLen() === null) continue; // null: the client takes no datagrams
      try {
        conn.dgramSend(response(message, this.#t2));
      } catch {
        // It fits no frame that this client takes: dropped.
      }
      this.#count(conn);
    }
  }

  // Answers a stream with the client's FIN, or before it as soon as a whole request has come.
  #answerStreams(conn) {
    for (const id of conn.readable()) {
      const [bytes, fin] = readStream(conn, id) ?? [Buffer.alloc(0), true];
      const before = this.#streams.get(id);
      if (before !== null) {
        const message = Buffer.concat([before ?? Buffer.alloc(0), bytes]);
        const whole = isRequest(message);
        if (whole) this.#count(conn);
        if (whole || fin) this.#driver.endStream(id, whole ? response(message, this.#t2) : MALFORMED);
        this.#streams.set(id, whole ? null : message);
      }
      if (fin) this.#streams.delete(id);
    }
  }

  #count(conn) {
    answered += 1;
    this.#early ||= !conn.isEstablished();
  }
}

function onMessage(data, remote) {
  const t2 = ntpNow();
  let header;
  try {
    header = quiche.Header.fromSlice(data, ID_LENGTH);
  } catch {
    return; // not QUIC
  }
  let session = sessions.get(Buffer.from(header.dcid).toString('hex'));
  if (!session) {
    if (header.ty === quiche.Type.Short) return;
    if (!quiche.versionIsSupported(header.version)) {
      const packet = Buffer.allocUnsafe(quiche.MAX_DATAGRAM_SIZE);
      const length = quiche.negotiateVersion(header.scid, header.dcid, packet);
      socket.send(packet, 0, length, remote.port, remote.address);
      return;
    }
    if (header.ty !== quiche.Type.Initial) return;
    session = new Session(header, remote);
  }
  session.receive(data, remote, t2);
}

const socket = await bind(options.host, Number(options.port), onMessage);

process.once('SIGTERM', () => {
  for (const session of new Set(sessions.values())) session.close();
  report({ event: 'summary', answered, connections: established });
  socket.close(); // the last thing that keeps the process alive
});

report({ event: 'listening', port: socket.address().port });
