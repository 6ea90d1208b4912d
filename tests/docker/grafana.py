"""Stands in for Grafana: reads the provisioned data sources and dashboards from the files that
Grafana reads them from, and serves them under Grafana's paths. It draws nothing."""

import json
import pathlib
import signal
import sys
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

PROVISIONING = pathlib.Path("/etc/grafana/provisioning")


def provisioned(kind, key):
    for path in sorted((PROVISIONING / kind).glob("*.y*ml")):
        yield from yaml.safe_load(path.read_text()).get(key) or []


SOURCES = {source["uid"]: source for source in provisioned("datasources", "datasources")}
DASHBOARDS = {}
for provider in provisioned("dashboards", "providers"):
    for path in sorted(pathlib.Path(provider["options"]["path"]).glob("*.json")):
        dashboard = json.loads(path.read_text())
        DASHBOARDS[dashboard["uid"]] = dashboard


def ask(source, path):
    try:
        with urllib.request.urlopen(source["url"].rstrip("/") + path, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def answer(path):
    plain = path.split("?")[0].strip("/").split("/")
    match plain:
        case ["api", "health"]:
            return 200, json.dumps({"database": "ok", "version": "stand-in"})
        case ["api", "dashboards", "uid", uid] if uid in DASHBOARDS:
            whole = {"dashboard": DASHBOARDS[uid], "meta": {"provisioned": True}}
            return 200, json.dumps(whole)
        case ["d", uid, *_] if uid in DASHBOARDS:
            return 200, DASHBOARDS[uid]["title"]
        case ["api", "datasources", "uid", uid, "health"] if uid in SOURCES:
            code, _ = ask(SOURCES[uid], "/-/ready")
            return code, json.dumps({"status": "OK" if code == 200 else "ERROR"})
        case ["api", "datasources", "proxy", "uid", uid, *_] if uid in SOURCES:
            return ask(SOURCES[uid], path.split(f"/uid/{uid}", 1)[1])
    return 404, json.dumps({"message": "Not found"})


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            code, body = answer(self.path)
        except OSError as error:
            code, body = 502, json.dumps({"message": str(error)})
        body = body if isinstance(body, bytes) else body.encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
ThreadingHTTPServer(("", 3000), Handler).serve_forever()
