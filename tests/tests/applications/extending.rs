//! A kind of a user's own, judged and completed by a webhook that runs in the cluster, and counted by a quota.

use waggle_tests::PYTHON;

use crate::{lab, rolled, wait_for};

/// Refuses what is kept for more than 90 days and says who asked for the rest.
const JUDGE: &str = r"
    import base64, http.server, json, ssl
    class Judge(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            review = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
            request = review['request']; backup = request['object']
            response = {'uid': request['uid'], 'allowed': True}
            if self.path.startswith('/complete'):
                labels = dict(backup['metadata'].get('labels') or {}, asked=request['userInfo']['username'])
                patch = [{'op': 'add', 'path': '/metadata/labels', 'value': labels}]
                response.update(patchType='JSONPatch', patch=base64.b64encode(json.dumps(patch).encode()).decode())
            elif backup['spec']['days'] > 90:
                response.update(allowed=False, status={'message': 'nothing is kept for %d days' % backup['spec']['days']})
            body = json.dumps(dict(review, request=None, response=response)).encode()
            self.send_response(200); self.send_header('Content-Type', 'application/json')
            self.send_header('Content-Length', str(len(body))); self.end_headers(); self.wfile.write(body)
        def do_GET(self):
            self.send_response(204); self.end_headers()
    server = http.server.ThreadingHTTPServer(('', 8443), Judge)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain('/certificate/tls.crt', '/certificate/tls.key')
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
";

const DEFINITION: &str = r#"apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: backups.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: backups, singular: backup, kind: Backup, shortNames: [bk], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.copies, statusReplicasPath: .status.copies}
    additionalPrinterColumns:
    - {name: Schedule, type: string, jsonPath: .spec.schedule}
    - {name: Copies, type: integer, jsonPath: .spec.copies}
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            required: [schedule]
            properties:
              schedule: {type: string, description: When to take one., pattern: '^(\S+ ){4}\S+$'}
              copies: {type: integer, minimum: 1, default: 1}
              days: {type: integer, default: 30}
            x-kubernetes-validations:
            - {rule: self.copies * self.days <= 900, message: too much to keep}
          status: {type: object, properties: {copies: {type: integer}}}
"#;

fn webhooks(bundle: &str) -> String {
    let webhook = |kind: &str, name: &str| {
        format!(
            r#"apiVersion: admissionregistration.k8s.io/v1
kind: {kind}WebhookConfiguration
metadata: {{name: backups}}
webhooks:
- name: {name}.example.com
  clientConfig: {{caBundle: {bundle}, service: {{namespace: default, name: judge, path: /{name}}}}}
  rules: [{{apiGroups: [example.com], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [backups]}}]
  admissionReviewVersions: [v1]
  sideEffects: None
---
"#
        )
    };
    webhook("Mutating", "complete") + &webhook("Validating", "judge")
}

fn judge(certificate: &str, key: &str) -> String {
    let image = PYTHON.image;
    format!(
        r#"apiVersion: v1
kind: Secret
metadata: {{name: judge}}
type: kubernetes.io/tls
data: {{tls.crt: {certificate}, tls.key: {key}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: judge}}
data:
  judge.py: |{JUDGE}
---
apiVersion: v1
kind: Service
metadata: {{name: judge}}
spec: {{selector: {{app: judge}}, ports: [{{port: 443, targetPort: 8443}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: judge}}
spec:
  selector: {{matchLabels: {{app: judge}}}}
  template:
    metadata: {{labels: {{app: judge}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: judge
        image: {image}
        command: [python3, /code/judge.py]
        readinessProbe: {{httpGet: {{scheme: HTTPS, path: /, port: 8443}}, periodSeconds: 1}}
        volumeMounts: [{{name: code, mountPath: /code}}, {{name: certificate, mountPath: /certificate}}]
      volumes:
      - {{name: code, configMap: {{name: judge}}}}
      - {{name: certificate, secret: {{secretName: judge}}}}
"#
    )
}

fn backup(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: example.com/v1\nkind: Backup\nmetadata: {{name: {name}, namespace: team}}\nspec: {{schedule: \"0 3 * * *\"{spec}}}\n"
    )
}

#[test]
fn a_kind_of_ones_own_with_a_webhook_and_a_quota() {
    use base64::Engine as _;
    let encoded = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
    let lab = lab(2, &[&PYTHON], &[]);
    let made = rcgen::generate_simple_self_signed(vec!["judge.default.svc".to_owned()]).unwrap();
    let certificate = encoded(made.cert.pem());
    lab.apply(&judge(
        &certificate,
        &encoded(made.signing_key.serialize_pem()),
    ));
    lab.apply(DEFINITION);
    lab.kubectl(&["create", "namespace", "team"]).ok();
    lab.kubectl(&[
        "create",
        "quota",
        "few",
        "-n",
        "team",
        "--hard=count/backups.example.com=2",
    ])
    .ok();
    rolled(&lab, "deployment/judge");
    lab.apply(&webhooks(&certificate));
    let established = [
        "wait",
        "--for=condition=Established",
        "crd/backups.example.com",
    ];
    lab.kubectl(&established).ok();
    let explained = lab.kubectl(&["explain", "backup.spec.schedule"]).ok();
    assert!(explained.contains("When to take one."), "{explained}");

    let refused = |name: &str, spec: &str| {
        let path = lab.scratch().join("refused.yaml");
        std::fs::write(&path, backup(name, spec)).unwrap();
        lab.kubectl(&["apply", "-f", &path.to_string_lossy()])
            .fails()
    };
    // By the schema, by its rule, by the webhook.
    for (spec, why) in [
        (
            ", copies: 0",
            "spec.copies: Invalid value: 0: spec.copies in body should be greater than or equal to 1",
        ),
        (", copies: 31", "too much to keep"),
        (
            ", days: 91",
            "admission webhook \"judge.example.com\" denied the request: nothing is kept for 91 days",
        ),
        (
            ", colour: red",
            "strict decoding error: unknown field \"spec.colour\"",
        ),
    ] {
        let said = refused("bad", spec);
        assert!(said.contains(why), "{said}");
    }
    lab.apply(&backup("one", ""));
    wait_for(
        &lab,
        &["backup", "one", "-n", "team"],
        "{.spec.copies} {.spec.days} {.metadata.labels.asked}",
        "1 30 kubernetes-admin",
    );
    lab.apply(&backup("two", ", copies: 2"));
    let said = refused("three", "");
    let why = "exceeded quota: few, requested: count/backups.example.com=1, used: count/backups.example.com=2, \
               limited: count/backups.example.com=2";
    assert!(said.contains(why), "{said}");
    lab.kubectl(&["scale", "backup", "one", "-n", "team", "--replicas=3"])
        .ok();
    let table = lab.kubectl(&["get", "bk", "-n", "team"]).ok();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["NAME", "SCHEDULE", "COPIES"]);
    assert_eq!(rows[1], ["one", "0", "3", "*", "*", "*", "3"]);

    // Its place is free at once for the next.
    lab.kubectl(&["delete", "backup", "two", "-n", "team"]).ok();
    lab.wait("the quota is given back", || {
        let path = lab.scratch().join("three.yaml");
        std::fs::write(&path, backup("three", "")).unwrap();
        let outcome = lab.kubectl(&["apply", "-f", &path.to_string_lossy()]);
        (outcome.code == Some(0))
            .then_some(())
            .ok_or(outcome.stderr)
    });

    // A webhook that nobody answers: writes fail, and say why, until it is taken away.
    lab.kubectl(&["scale", "deployment", "judge", "--replicas=0"])
        .ok();
    wait_for(&lab, &["pods", "-l", "app=judge"], "{.items}", "[]");
    let label = ["label", "backup", "one", "-n", "team", "some=label"];
    let said = lab.kubectl(&label).fails();
    assert!(
        said.contains("failed calling webhook \"complete.example.com\""),
        "{said}"
    );
    lab.kubectl(&[
        "delete",
        "mutatingwebhookconfiguration,validatingwebhookconfiguration",
        "backups",
    ])
    .ok();
    lab.kubectl(&label).ok();
    lab.kubectl(&["delete", "crd", "backups.example.com"]).ok();
    let all = ["get", "--raw", "/apis/example.com/v1/backups"];
    let gone = lab.kubectl(&all).fails();
    assert!(
        gone.contains("the server could not find the requested resource"),
        "{gone}"
    );
}
