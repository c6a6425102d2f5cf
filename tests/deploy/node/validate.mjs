// Reads manifests (a JSON list) from standard input and validates those whose custom resource definitions are at hand.
// Prints the kinds that are valid; the first that is not ends it with exit code 1.
import { readFileSync } from "node:fs";
import { HTTPRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";

const kinds = { HTTPRoute, ServiceMonitor };
for (const manifest of JSON.parse(readFileSync(0))) {
  const Kind = kinds[manifest.kind];
  if (Kind === undefined) continue;
  try {
    new Kind(manifest).validate();
  } catch (error) {
    console.error(`${manifest.kind}: ${error.message}`);
    process.exit(1);
  }
  console.log(manifest.kind);
}
