"""Judges what pip-audit found (its JSON on standard input): fails at a vulnerability, and says if nobody answered."""

import json
import sys

try:
    packages = json.load(sys.stdin)["dependencies"]
except ValueError:  # pip-audit ended with an error: no network
    packages = []
audited = [package for package in packages if "vulns" in package]
for package in audited:
    for found in package["vulns"]:
        fixed = ", ".join(found["fix_versions"]) or "nothing yet"
        print(f"{package['name']} {package['version']} has {found['id']}, fixed by {fixed}")
if not audited:
    print("Nothing was audited: no index of known vulnerabilities answers here")
else:
    print(f"{len(audited)} of {len(packages)} packages were audited for known vulnerabilities")
sys.exit(any(package["vulns"] for package in audited))
