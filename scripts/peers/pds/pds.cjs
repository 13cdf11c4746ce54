// A Bluesky PDS with its directory (PLC), neither of which this project wrote, for the tests to log in at.
//
//   node pds.cjs [PORT]     default 9403; the directory takes PORT + 1
//
// Prints {"url", "directory", "handle", "password", "appPassword"} as one line of JSON when it is ready: an account with an
// app password. Everything is in a folder of its own and dies with the process. Both servers listen on 127.0.0.1 only.
'use strict';
const net = require('node:net');
const { createRequire } = require('node:module');

// The servers name no host when they listen, which means every interface. Here that is loopback.
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (first, ...rest) {
  const isPort = typeof first === 'number' || (typeof first === 'string' && /^[0-9]+$/.test(first));
  if (isPort) {
    if (typeof rest[0] === 'string') rest.shift();
    return listen.call(this, first, '127.0.0.1', ...rest);
  }
  if (first && typeof first === 'object' && 'port' in first) return listen.call(this, { ...first, host: '127.0.0.1' }, ...rest);
  return listen.call(this, first, ...rest);
};

// The package is installed outside the source tree.
const modules = process.env.VALETKEY_TEST_NODE_MODULES;
const { TestNetworkNoAppView } = createRequire(modules ? `${modules}/` : __filename)('@atproto/dev-env');

const PORT = Number(process.argv[2] ?? 9403);
const ACCOUNT = { email: 'alice@example.test', handle: 'alice.test', password: 'alice-pass-of-the-tests-only' };

async function main() {
  const network = await TestNetworkNoAppView.create({ pds: { port: PORT }, plc: { port: PORT + 1 } });
  const agent = network.pds.getClient();
  await agent.createAccount(ACCOUNT);
  const made = await agent.com.atproto.server.createAppPassword({ name: 'valetkey' });
  const { handle, password } = ACCOUNT;
  console.log(JSON.stringify({ url: network.pds.url, directory: network.plc.url, handle, password, appPassword: made.data.password }));
  for (const signal of ['SIGTERM', 'SIGINT']) {
    process.on(signal, () => network.close().finally(() => process.exit(0)));
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
