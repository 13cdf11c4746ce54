// An MCP client that this project did not write, for the tests: the official one, told what to do line by line.
//
//   node mcp-client.mjs http URL              with a bearer that is given: MCP_TOKEN
//   node mcp-client.mjs oauth URL REDIRECT    gets its token by itself: discovery, registration, code with PKCE, refresh
//   node mcp-client.mjs stdio PROGRAM [ARGUMENT]...
//
// It prints {"ready": SERVER} once it is connected; by oauth first {"open": URL}, for a browser, and takes the address that the
// browser comes back to, a line {"back": URL}. Then each line {"tool": NAME, "arguments": {...}} is answered by what the tool told,
// as the client hands it over after it checked it against the tool's schema, and {"tools": true} by the list of them. What goes
// wrong is {"error": TEXT, "kind": CLASS}. Standard input at its end ends it.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

// The package is installed outside the source tree.
const require = createRequire(`${process.env.VALETKEY_TEST_NODE_MODULES}/`);
const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
const { StdioClientTransport } = require('@modelcontextprotocol/sdk/client/stdio.js');
const { UnauthorizedError } = require('@modelcontextprotocol/sdk/client/auth.js');

const say = (told) => process.stdout.write(`${JSON.stringify(told)}\n`);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const next = async () => {
  const { value, done } = await lines.next();
  return done ? undefined : JSON.parse(value);
};

const [kind, target, ...more] = process.argv.slice(2);

// What a program that people install keeps of its sign-in.
const kept = {};
const signIn = {
  redirectUrl: more[0],
  clientMetadata: {
    client_name: 'The client of the tests',
    redirect_uris: [more[0]],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    token_endpoint_auth_method: 'none',
  },
  clientInformation: () => kept.client,
  saveClientInformation: (client) => { kept.client = client; },
  tokens: () => kept.tokens,
  saveTokens: (tokens) => { kept.tokens = tokens; },
  codeVerifier: () => kept.verifier,
  saveCodeVerifier: (verifier) => { kept.verifier = verifier; },
  redirectToAuthorization: (url) => say({ open: url.href }),
};

const transports = {
  http: () => new StreamableHTTPClientTransport(new URL(target), {
    requestInit: { headers: { Authorization: `Bearer ${process.env.MCP_TOKEN}` } },
  }),
  oauth: () => new StreamableHTTPClientTransport(new URL(target), { authProvider: signIn }),
  stdio: () => new StdioClientTransport({ command: target, args: more, env: process.env, stderr: 'inherit' }),
};

const connect = async (transport) => {
  const client = new Client({ name: 'tests', version: '1.0.0' });
  await client.connect(transport);
  return client;
};

const failed = (error) => say({ error: String(error?.message ?? error), kind: error?.constructor?.name });

try {
  let client;
  const first = transports[kind]();
  try {
    client = await connect(first);
  } catch (error) {
    if (kind !== 'oauth' || !(error instanceof UnauthorizedError)) throw error;
    const back = new URL((await next()).back);
    await first.finishAuth(back.searchParams.get('code'));
    client = await connect(transports.oauth());
  }
  // The client checks what tools tell against the schemas of those that it listed.
  const { tools } = await client.listTools();
  say({ ready: client.getServerVersion() });
  for (let line = await next(); line !== undefined; line = await next()) {
    try {
      say(line.tools ? tools : await client.callTool({ name: line.tool, arguments: line.arguments }));
    } catch (error) {
      failed(error);
    }
  }
  await client.close();
} catch (error) {
  failed(error);
  process.exitCode = 1;
}
process.stdin.destroy();
