"""An OAuth 1.0a provider that this project did not write, for the tests to connect to: Authlib's, under Flask.

    python oauth1-provider.py [ADDRESS:PORT]     default 127.0.0.1:0; prints "provider http://127.0.0.1:PORT" when ready

Authlib checks signatures, timestamps and nonces (RFC 5849). HMAC-SHA1 is its own; HMAC-SHA256 is added here as its
documentation says, over its own base string. Everything is in memory and dies with the process.

One app is registered: `test-key` with the secret `test secret & more/~`. Nobody has to sign in: the form parameter `user`
names who approves, and without it nobody does.

    POST /oauth/request_token, POST /oauth/authorize?oauth_token=..., POST /oauth/access_token     the three legs
    POST /oauth/revoke              signed: ends the token
    GET  /me                        signed: {"id"}
    any  /api/echo                  signed: {"id", "method", "query", "form"}, each parameter as a pair

Some things it also does as X does them: the token answer says whose it is (`user_id`, `screen_name`), signed
`GET /1.1/account/verify_credentials.json` says it again, `POST /1.1/oauth/invalidate_token` ends the token, and the form
parameter `refuse` in place of `user` sends the browser back with `denied`.
"""

import hashlib
import hmac
import sys
from base64 import b64encode
from urllib.parse import parse_qs, urlencode

from authlib.integrations.flask_oauth1 import AuthorizationServer, ResourceProtector, current_credential
from authlib.oauth1 import ClientMixin, TemporaryCredential, TokenCredentialMixin
from authlib.oauth1.rfc5849 import signature
from authlib.oauth1.rfc5849.errors import OAuth1Error
from authlib.oauth1.rfc5849.util import escape
from flask import Flask, jsonify, redirect, request
from werkzeug.serving import make_server


class App(ClientMixin):
    client_id = "test-key"

    def get_default_redirect_uri(self):
        return None

    def get_client_secret(self):
        return "test secret & more/~"

    def get_rsa_public_key(self):
        return None


class Token(TokenCredentialMixin):
    def __init__(self, token, client_id, user):
        self.token, self.client_id, self.user = token, client_id, user

    def get_oauth_token(self):
        return self.token["oauth_token"]

    def get_oauth_token_secret(self):
        return self.token["oauth_token_secret"]


APPS = {App.client_id: App()}
TEMPORARY, TOKENS, NONCES = {}, {}, set()


def hmac_sha256(asked):
    key = f"{escape(asked.client_secret or '')}&{escape(asked.token_secret or '')}"
    text = signature.generate_signature_base_string(asked)
    expected = b64encode(hmac.new(key.encode(), text.encode(), hashlib.sha256).digest()).decode()
    return hmac.compare_digest(expected, asked.signature)


def find_app(client_id):
    return APPS.get(client_id)


def is_used(nonce, timestamp, client_id, oauth_token):
    use = (nonce, timestamp, client_id, oauth_token)
    known = use in NONCES
    NONCES.add(use)
    return known


def begin(token, client_id, redirect_uri):
    credential = TemporaryCredential({"client_id": client_id, "oauth_callback": redirect_uri, **token})
    TEMPORARY[token["oauth_token"]] = credential
    return credential


def approve(credential, grant_user, verifier):
    credential["user_id"], credential["oauth_verifier"] = grant_user, verifier
    return credential


def finish(token, temporary_credential):
    made = Token(token, temporary_credential.get_client_id(), temporary_credential.get_user_id())
    TOKENS[token["oauth_token"]] = made
    return made


app = Flask(__name__)
app.config["OAUTH1_SUPPORTED_SIGNATURE_METHODS"] = ["HMAC-SHA1", "HMAC-SHA256"]
AuthorizationServer.register_signature_method("HMAC-SHA256", hmac_sha256)
ResourceProtector.register_signature_method("HMAC-SHA256", hmac_sha256)
server = AuthorizationServer(app, query_client=find_app)
for hook, function in {
    "create_temporary_credential": begin,
    "get_temporary_credential": TEMPORARY.get,
    "delete_temporary_credential": lambda token: TEMPORARY.pop(token, None),
    "create_authorization_verifier": approve,
    "create_token_credential": finish,
    "exists_nonce": is_used,
}.items():
    server.register_hook(hook, function)
signed = ResourceProtector(app, query_client=find_app, query_token=lambda client_id, token: TOKENS.get(token), exists_nonce=is_used)


@app.post("/oauth/request_token")
def request_token():
    return server.create_temporary_credentials_response()


@app.post("/oauth/authorize")
def authorize():
    try:
        server.check_authorization_request()
    except OAuth1Error as error:
        return jsonify(dict(error.get_body())), 400
    if "refuse" in request.form:
        token = request.args["oauth_token"]
        back = TEMPORARY[token].get_redirect_uri()
        return redirect(f"{back}{'&' if '?' in back else '?'}{urlencode({'denied': token})}")
    return server.create_authorization_response(grant_user=request.form.get("user"))


@app.post("/oauth/access_token")
def access_token():
    answer = server.create_token_response()
    if answer.status_code == 200:
        text = answer.get_data(as_text=True)
        user = TOKENS[parse_qs(text)["oauth_token"][0]].user
        answer.set_data(f"{text}&{urlencode({'user_id': f'id-{user}', 'screen_name': user})}")
    return answer


@app.post("/1.1/oauth/invalidate_token")
@app.post("/oauth/revoke")
@signed()
def revoke():
    TOKENS.pop(current_credential.get_oauth_token(), None)
    return jsonify(revoked=True)


@app.get("/me")
@signed()
def me():
    return jsonify(id=current_credential.user)


@app.get("/1.1/account/verify_credentials.json")
@signed()
def verify_credentials():
    user = current_credential.user
    return jsonify(id_str=f"id-{user}", screen_name=user, name=user.capitalize())


@app.route("/api/echo", methods=["GET", "POST", "PUT", "DELETE"])
@signed()
def echo():
    def pairs(values):
        return [[name, value] for name, value in values.items(multi=True)]

    return jsonify(id=current_credential.user, method=request.method, query=pairs(request.args), form=pairs(request.form))


host, _, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:0").rpartition(":")
listening = make_server(host, int(port), app, threaded=True)
print(f"provider http://{host}:{listening.server_port}", flush=True)
listening.serve_forever()
