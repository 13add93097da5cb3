"""A mail server for tests: what it takes it puts into files, one for each message, before it says so."""

import asyncio
import base64
import json
import os
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

with open(sys.argv[1]) as f:
    config = json.load(f)


class Handler:
    count = len(os.listdir(config["mails"]))  # those before a restart

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("refused"):
            return "550 no such user here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        self.count += 1
        name = os.path.join(config["mails"], "%06d" % self.count)
        login = session.auth_data
        with open(name + ".part", "w") as f:
            json.dump({
                "From": envelope.mail_from,
                "To": envelope.rcpt_tos,
                "Data": base64.b64encode(envelope.original_content).decode(),
                "User": login.login.decode() if isinstance(login, LoginPassword) else "",
                "TLS": server.over_tls or server._tls_protocol is not None,
            }, f)
        os.rename(name + ".part", name + ".json")
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    good = isinstance(data, LoginPassword) and data == LoginPassword(config["user"].encode(), config["password"].encode())
    return AuthResult(success=good, handled=False, auth_data=data)


class Plain(SMTP):
    over_tls = False


class OverTLS(SMTP):
    over_tls = True


async def main():
    loop = asyncio.get_running_loop()
    handler = Handler()
    options = {"hostname": "localhost"}
    context = None
    if "cert" in config:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(config["cert"], config["key"])
    if "password" in config:
        options.update(authenticator=authenticate, auth_required=True)
    plain = dict(options, tls_context=context, auth_require_tls=context is not None)
    servers = [await loop.create_server(lambda: Plain(handler, **plain), "127.0.0.1", config["port"])]
    if context:
        servers.append(await loop.create_server(lambda: OverTLS(handler, auth_require_tls=False, **options), "127.0.0.1", config["tlsPort"], ssl=context))
    await asyncio.gather(*(s.serve_forever() for s in servers))


asyncio.run(main())
