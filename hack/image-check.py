"""Checks that the image is self-contained: builds its root file system and runs the binary in it with chroot.

    .tools/moto/bin/python hack/image-check.py     or `make image-check`

The root file system also gets what a container runtime provides: /dev/null, /dev/random, /dev/urandom, /etc/hosts and
/etc/resolv.conf. A kubeconfig takes the place of the mounted service account. The binary connects to a real API server
over TLS. It connects to moto, an Amazon ECS emulator, over TLS at aws.test: a DNS server resolves that name, and the
CA certificate is added to the image's CA bundle. Requires root.
"""

import datetime
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
TOOLS = ROOT / ".tools"
MOST_BYTES = 12_000_000
HOST = "aws.test"
NAME_SERVER = "127.0.0.2"
USER = "65532"


def say(text):
    print(f"image-check: {text}", flush=True)


def fail(text):
    sys.exit(f"image-check: FAILED: {text}")


def lay_out(folder):
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    began = time.monotonic()
    subprocess.run([ROOT / "hack/rootfs.sh", architecture, folder], check=True)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    size = (folder / "ecs-retirement-controller").stat().st_size
    say(f"built in {time.monotonic() - began:.0f} s; files in the image: {', '.join(f'/{path}' for path in files)}")
    say(f"the binary has {size:,} bytes; the maximum is {MOST_BYTES:,}")
    return size


def serve_names():
    """Starts a DNS server that resolves only HOST. Returns a list that receives the name of each query."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((NAME_SERVER, 53))
    asked = []

    def answer():
        while True:
            query, peer = server.recvfrom(512)
            end = query.index(0, 12)
            question, kind = query[12 : end + 5], query[end + 2]
            name, at = [], 12
            while query[at]:
                name.append(query[at + 1 : at + 1 + query[at]].decode())
                at += 1 + query[at]
            asked.append(".".join(name))
            known = asked[-1] == HOST and kind == 1
            flags = b"\x81\x80" if asked[-1] == HOST else b"\x81\x83"
            record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x7f\x00\x00\x01" if known else b""
            head = query[:2] + flags + b"\x00\x01" + bytes([0, known]) + b"\x00\x00\x00\x00"
            server.sendto(head + question + record, peer)

    threading.Thread(target=answer, daemon=True).start()
    return asked


def certify(folder):
    """Creates a CA and a certificate for HOST. Writes the certificate and key to folder; returns the CA certificate."""
    now = datetime.datetime.now(datetime.UTC)

    def certificate(subject, issuer, key, signer, is_authority):
        name = lambda text: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if not is_authority:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        signed = builder.sign(signer, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = certificate("image-check", "image-check", authority_key, authority_key, True)
    (folder / "aws.crt").write_bytes(certificate(HOST, "image-check", key, authority_key, False))
    (folder / "aws.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return authority


def serve_tls(folder, port_behind):
    """Starts a proxy that terminates TLS and forwards to `port_behind`. Returns the port of the proxy."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "aws.crt", folder / "aws.key")
    listener = socket.create_server(("127.0.0.1", 0))

    def pipe(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        sink.close()

    def accept():
        while True:
            raw, _ = listener.accept()
            try:
                front = context.wrap_socket(raw, server_side=True)
                behind = socket.create_connection(("127.0.0.1", port_behind))
            except OSError as error:
                say(f"connection to {HOST} failed: {error}")
                continue
            for ends in ((front, behind), (behind, front)):
                threading.Thread(target=pipe, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def give_what_a_container_has(folder, authority, kubeconfig):
    (folder / "dev").mkdir()
    for name, minor in (("null", 3), ("random", 8), ("urandom", 9)):
        os.mknod(folder / "dev" / name, 0o666 | 0o020000, os.makedev(1, minor))
        os.chmod(folder / "dev" / name, 0o666)
    (folder / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (folder / "etc/resolv.conf").write_text(f"nameserver {NAME_SERVER}\n")
    (folder / "kubeconfig").write_text(kubeconfig)
    with open(folder / "etc/ssl/certs/ca-certificates.crt", "ab") as certificates:
        certificates.write(authority)
    os.chmod(folder, 0o755)


def main():
    if os.geteuid() != 0:
        fail("chroot requires root: run it as root")
    with tempfile.TemporaryDirectory(prefix="ecs-retirement-") as temporary:
        temporary = Path(temporary)
        rootfs = temporary / "rootfs"
        size = lay_out(rootfs)
        subprocess.run(["cargo", "build", "--quiet", "--locked", "--workspace", "--bins"], cwd=ROOT, check=True)
        plane = subprocess.Popen(
            [TARGET / "debug/control-plane"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            line = plane.stdout.readline()
            if not line:
                fail("control-plane did not start: see its output above")
            run(temporary, rootfs, dict(word.split("=", 1) for word in line.split()))
        finally:
            plane.stdin.close()
            plane.wait()
        if size >= MOST_BYTES:
            fail(f"the binary has {size:,} bytes; the maximum is {MOST_BYTES:,}")


def run(temporary, rootfs, servers):
    def kubectl(*arguments):
        environment = {"PATH": os.environ["PATH"], "HOME": str(temporary), "KUBECONFIG": servers["KUBECONFIG"]}
        command = [TOOLS / "bin/kubectl", *arguments]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else fail(f"kubectl {' '.join(arguments)}: {done.stderr}")

    asked = serve_names()
    authority = certify(temporary)
    port = serve_tls(temporary, int(servers["AWS_ENDPOINT_URL"].rsplit(":", 1)[1]))
    flat = kubectl("config", "view", "--raw", "--flatten")
    give_what_a_container_has(rootfs, authority, flat)
    kubectl("apply", "-f", "crds/")
    kubectl("wait", "--for=condition=Established", "-f", "crds/")
    register(servers)
    environment = {
        "KUBECONFIG": "/kubeconfig",
        "AWS_ENDPOINT_URL": f"https://{HOST}:{port}",
        **{name: servers[name] for name in ("AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")},
    }
    command = ["setpriv", "--pdeathsig", "KILL", "--", shutil.which("chroot") or "/usr/sbin/chroot"]
    command += [f"--userspec={USER}:{USER}", rootfs, "/ecs-retirement-controller", "run"]
    command += ["--metrics-bind-address=0", "--health-probe-bind-address=0"]
    log = temporary / "controller.log"
    with open(log, "w") as output:
        controller = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        kubectl("apply", "-f", "examples/cpu-wave.yaml")
        kubectl("wait", "--for=condition=Ready", "tdr/cpu-wave", "--timeout=60s")
        status = Path(f"/proc/{controller.pid}/status").read_text()
        if f"Uid:\t{USER}" not in status:
            fail(f"the controller does not run as user {USER}")
        controller.terminate()
        if (code := controller.wait(timeout=30)) != 0:
            fail(f"the controller exited with code {code} instead of 0")
    except SystemExit:
        print(log.read_text(), file=sys.stderr)
        raise
    finally:
        controller.kill()
    if HOST not in asked:
        fail(f"the DNS server received no query for {HOST}")
    print(log.read_text(), end="")
    say(f"OK: the controller retired a revision in the image's root file system, as user {USER}, over DNS and TLS")


def register(servers):
    import boto3

    ecs = boto3.client(
        "ecs",
        endpoint_url=servers["AWS_ENDPOINT_URL"],
        region_name=servers["AWS_REGION"],
        aws_access_key_id=servers["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=servers["AWS_SECRET_ACCESS_KEY"],
    )
    container = {"name": "wave", "image": "busybox", "memory": 64}
    ecs.register_task_definition(family="cpu-wave", containerDefinitions=[container])


if __name__ == "__main__":
    main()
