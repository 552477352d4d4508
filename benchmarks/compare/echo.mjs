// A UDP echo under node: what node itself takes for a datagram that comes and one that goes.
//
//   node echo.mjs [--host 127.0.0.1]

import { createSocket } from 'node:dgram';
import { parseArgs } from 'node:util';

const { values: options } = parseArgs({ options: { host: { type: 'string', default: '127.0.0.1' } } });
const socket = createSocket({ type: 'udp4', lookup: (name, options, done) => done(null, name, 4) });
socket.on('message', (data, remote) => socket.send(data, remote.port, remote.address));
process.once('SIGTERM', () => socket.close());
socket.bind(0, options.host, () => console.log(JSON.stringify({ port: socket.address().port })));
