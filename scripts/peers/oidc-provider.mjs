// An OAuth 2.0 and OpenID Connect server that this project did not write, for the tests to connect to.
//
//   node oidc-provider.mjs [ADDRESS:PORT]     default 127.0.0.1:0; prints "issuer http://127.0.0.1:PORT" when ready
//
// It refuses a request without PKCE, names itself in the callback (RFC 9207), rotates refresh tokens and kills the whole
// grant when an old one comes back. Any login name and password pass; the login name becomes the `sub`. Everything is in
// memory and dies with the process.
//
// A test makes its own client, so that redirect URIs and token lives are its own (RFC 7591):
//
//   POST {issuer}/reg
//   {"redirect_uris": ["http://127.0.0.1:4000/callback"], "grant_types": ["authorization_code", "refresh_token"],
//    "response_types": ["code"], "token_endpoint_auth_method": "client_secret_basic",
//    "access_token_life": 5, "refresh_token_life": 600}
//
// The answer has client_id and client_secret. `access_token_life` and `refresh_token_life` are ours: seconds, optional.
// `GET {issuer}/me` with a bearer token is an API to call: it answers {"sub", "email"}, and 401 once the token is dead.
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

// The package is installed outside the source tree; NODE_PATH does not count for ES modules, so resolve it by hand.
const modules = process.env.VALETKEY_TEST_NODE_MODULES;
const resolve = createRequire(modules ? `${modules}/` : import.meta.url).resolve;
const { Provider, errors } = await import(pathToFileURL(resolve('oidc-provider')));

const [host, port] = (process.argv[2] ?? '127.0.0.1:0').split(':');
const server = createServer();
await new Promise((ready, failed) => server.once('error', failed).listen(Number(port), host, ready));
const issuer = `http://${host}:${server.address().port}`;

const HOUR = 3600;
const LIFE = ['access_token_life', 'refresh_token_life'];
const code = ['authorization_code', 'refresh_token'];

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: 'valetkey-test',
      client_secret: 'a-client-secret-of-the-tests-only',
      redirect_uris: [process.env.VALETKEY_TEST_REDIRECT_URI ?? 'http://127.0.0.1:9/callback'],
      grant_types: code,
      response_types: ['code'],
      token_endpoint_auth_method: 'client_secret_basic',
    },
  ],
  findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id, email: `${id}@example.test` }) }),
  claims: { openid: ['sub'], email: ['email'] },
  clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt', 'none'],
  features: {
    devInteractions: { enabled: true },
    revocation: { enabled: true },
    introspection: { enabled: true },
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    pushedAuthorizationRequests: { enabled: true },
    resourceIndicators: { enabled: false },
    registration: { enabled: true, initialAccessToken: false },
  },
  extraClientMetadata: {
    properties: LIFE,
    validator(_ctx, key, value) {
      if (value !== undefined && !(Number.isInteger(value) && value > 0)) {
        throw new errors.InvalidClientMetadata(`${key} must be a whole number of seconds above 0`);
      }
    },
  },
  pkce: { required: () => true },
  // A refresh token for every client that may refresh, whether or not it asked for offline_access.
  issueRefreshToken: (_ctx, client) => client.grantTypeAllowed('refresh_token'),
  rotateRefreshToken: true,
  ttl: {
    AccessToken: (_ctx, _token, client) => client.access_token_life ?? HOUR,
    RefreshToken: (_ctx, _token, client) => client.refresh_token_life ?? 24 * HOUR,
    AuthorizationCode: 60,
    ClientCredentials: HOUR,
    DeviceCode: 600,
    Grant: 24 * HOUR,
    IdToken: HOUR,
    Interaction: HOUR,
    Session: 24 * HOUR,
  },
  clockTolerance: 0, // the default lets a token live 15 s too long
  cookies: { keys: ['signs the cookies of a server that lives for one test run'] },
});
provider.on('server_error', (_ctx, error) => console.error('server_error', error));

const answer = provider.callback();
server.on('request', (request, response) => {
  // The login pages import a font from the internet; a test machine may have none, and a test must not wait for it.
  response.setHeader('content-security-policy', "style-src 'unsafe-inline'; font-src 'none'");
  answer(request, response);
});
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(0));
console.log(`issuer ${issuer}`);
