//! Tests of what policies are told about their kinds.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::kinds;
use crate::schema::expression_type;

fn checked(group: &str, version: &str, plural: &str) -> Checked {
    let kind = kinds::by_plural(group, version, plural).expect("it is built in");
    Checked {
        name: format!("{group}/{version}, Kind={}", kind.kind),
        kind: expression_type(kind).expect("its fields are known"),
    }
}

#[test]
fn fields_that_a_kind_does_not_have_are_told() {
    let policy = json!({"spec": {
        "matchConstraints": {"resourceRules": [
            {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments", "deployments/scale"]},
            {"apiGroups": ["*"], "apiVersions": ["v1"], "resources": ["pods"]},
        ]},
        "variables": [{"name": "wanted", "expression": "object.spec.replicas"}],
        "validations": [
            {"expression": "object.replicas > 1", "messageExpression": "'have ' + variables.wanted"},
            {"expression": "variables.wanted <= 5 && object.metadata.labels['a'] == 'b'"},
            {"expression": "object.spec.template.spec.containers.all(c, c.image.startsWith('x'))"},
        ],
    }});
    let wanted = ("apps".to_owned(), "v1".to_owned(), "deployments".to_owned());
    assert_eq!(resources(&policy), [wanted]);
    let kinds = [checked("apps", "v1", "deployments")];
    let deployment = "apps/v1, Kind=Deployment: ERROR: <input>:1:";
    assert_eq!(
        warnings(&policy, &kinds, None),
        [
            json!({
                "fieldRef": "spec.validations[0].expression",
                "warning": format!(
                    "{deployment}7: undefined field 'replicas'\n | object.replicas > 1\n | ......^\n"
                ),
            }),
            json!({
                "fieldRef": "spec.validations[0].messageExpression",
                "warning": format!(
                    "{deployment}9: found no matching overload for '_+_' applied to '(string, int)'\n \
                     | 'have ' + variables.wanted\n | ........^\n"
                ),
            }),
        ]
    );
    // Of two kinds each says for itself what it does not have.
    let both = [
        checked("apps", "v1", "deployments"),
        checked("apps", "v1", "daemonsets"),
    ];
    let said = warnings(&policy, &both, None);
    let first = said[0]["warning"].as_str().unwrap_or_default();
    assert!(first.contains("Kind=DaemonSet"), "{first}");
}
