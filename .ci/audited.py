"""Judges what pip-audit found (its JSON on standard input): fails if a package has a known vulnerability.

If no index of vulnerabilities answered, prints that and succeeds.
"""

import json
import sys

try:
    packages = json.load(sys.stdin)["dependencies"]
except ValueError:  # pip-audit ended with an error, because there is no network
    packages = []
audited = [package for package in packages if "vulns" in package]
for package in audited:
    for found in package["vulns"]:
        fixed = ", ".join(found["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']} has {found['id']}, fixed in {fixed}")
if audited:
    print(f"{len(audited)} of {len(packages)} packages were audited for known vulnerabilities")
else:
    print("No package was audited, because no index of known vulnerabilities answered")
sys.exit(any(package["vulns"] for package in audited))
