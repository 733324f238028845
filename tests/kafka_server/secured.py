"""An Apache Kafka broker with SASL and TLS for the tests, and the certificates for both sides."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from rebound_celery.embedded import HOST, free_port

from . import apache

USER, PASSWORD = "alice", "alice-has-a-s3cret"
KEY_PASSWORD = "the-key-has-a-s3cret"

_SECURITY = """
listeners=PLAINTEXT://{host}:{port},SASL_SSL://{host}:{sasl},SSL://{host}:{tls},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port},SASL_SSL://{host}:{sasl},SSL://{host}:{tls}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
ssl.keystore.type=PEM
ssl.keystore.location={certificates}/broker.both.pem
ssl.truststore.type=PEM
ssl.truststore.location={certificates}/ca.pem
listener.name.ssl.ssl.client.auth=required
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
  user_{user}="{password}";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config=\
  org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";
"""


class SecuredKafka(apache.ApacheKafka):
    """A broker with three listeners: `address` in the clear, `sasl` with SASL over TLS, `tls` with client certificates.

    Args:
        certificates: the directory with what `make_certificates` has made.
    """

    def __init__(self, certificates: Path) -> None:
        super().__init__()
        self._certificates = certificates
        self._sasl_port, self._tls_port = free_port(), free_port()

    @property
    def sasl(self) -> str:
        return f"{HOST}:{self._sasl_port}"

    @property
    def tls(self) -> str:
        return f"{HOST}:{self._tls_port}"

    def _properties(self) -> str:
        own = ("listeners=", "advertised.listeners=", "listener.security.protocol.map=")
        kept = [line for line in super()._properties().splitlines() if not line.startswith(own)]
        return "\n".join(kept) + _SECURITY.format(
            host=HOST,
            port=self.port,
            sasl=self._sasl_port,
            tls=self._tls_port,
            controller_port=self._controller_port,
            certificates=self._certificates,
            user=USER,
            password=PASSWORD,
        )

    def _format_options(self) -> Sequence[str]:
        users = (f"{mechanism}=[name={USER},password={PASSWORD}]" for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"))
        return [part for user in users for part in ("--add-scram", user)]


def make_certificates(place: Path) -> Path:
    """Make a CA and the certificates of a broker and of a client, which the CA has signed. Return their directory.

    `broker.both.pem` holds key and certificate. `client.key` is encrypted with KEY_PASSWORD.
    """

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=place, check=True, capture_output=True)

    new_key = ("-newkey", "rsa:2048")
    openssl("req", "-x509", *new_key, "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    (place / "names").write_text(f"subjectAltName=IP:{HOST},DNS:localhost\n")
    for name in ("broker", "client"):
        secret = ("-nodes",) if name == "broker" else ("-passout", f"pass:{KEY_PASSWORD}")
        openssl("req", *new_key, *secret, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", f"{name}.pem", "-days", "2", "-extfile", "names",
        )  # fmt: skip
    (place / "broker.both.pem").write_text((place / "broker.key").read_text() + (place / "broker.pem").read_text())
    return place
