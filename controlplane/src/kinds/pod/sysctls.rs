//! Validation of `securityContext.sysctls`. Which of them a node allows is the node's to say.

use std::collections::HashSet;

use serde_json::Value;

use crate::kinds::access::{flag, list, text};
use crate::kinds::errors::Errors;

/// Bytes of the longest name.
const LONGEST: usize = 253;
/// Those of the namespaces of System V and POSIX messages, besides `fs.mqueue.`.
const IPC: &[&str] = &["kernel.shm", "kernel.msg"];

pub(super) fn validate(spec: &Value, field: &str, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (index, sysctl) in list(spec, &["securityContext", "sysctls"])
        .iter()
        .enumerate()
    {
        let field = format!("{field}.securityContext.sysctls[{index}].name");
        let name = text(sysctl, &["name"]);
        if name.is_empty() {
            errors.required(field, "");
            continue;
        }
        if !is_name(name) {
            errors.invalid(
                field,
                name,
                &format!(
                    "must have at most {LONGEST} characters and match regex \
                     ([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
                ),
            );
            continue;
        }
        let dotted = name.replace('/', ".");
        if !seen.insert(dotted.clone()) {
            errors.duplicate(field, name);
            continue;
        }
        // The pod would set them for the whole node.
        let is_ipc = dotted.starts_with("fs.mqueue.")
            || IPC.iter().any(|it| dotted.starts_with(it))
            || dotted == "kernel.sem";
        for (host, concerns) in [
            ("hostNetwork", dotted.starts_with("net.")),
            ("hostIPC", is_ipc),
        ] {
            if concerns && flag(spec, &[host]) {
                let why = format!("may not be specified when '{host}' is set to true");
                errors.invalid(field.clone(), name, &why);
            }
        }
    }
}

/// Segments of lower-case letters, digits, `-` and `_`, between dots or slashes.
fn is_name(name: &str) -> bool {
    let is_end = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_segment = |segment: &str| {
        let bytes = segment.as_bytes();
        let inner = |byte: &u8| is_end(byte) || matches!(byte, b'-' | b'_');
        bytes.first().is_some_and(is_end)
            && bytes.last().is_some_and(is_end)
            && bytes.iter().all(inner)
    };
    name.len() <= LONGEST && name.split(['.', '/']).all(is_segment)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(spec: &Value) -> Vec<(String, String)> {
        let mut errors = Errors::new();
        validate(spec, "spec", &mut errors);
        let errors = errors.into_vec().into_iter();
        errors.map(|it| (it.field, it.message)).collect()
    }

    #[test]
    fn names_are_checked_and_whose_they_are() {
        let names = [
            "foo-",
            "kernel.shmmax",
            "safe-and-unsafe",
            "bar..",
            "",
            "net/core/x",
            "net.core.x",
            "kernel.pid_max",
        ];
        let sysctls: Vec<Value> = names
            .iter()
            .map(|name| json!({"name": name, "value": "1"}))
            .collect();
        let mut spec = json!({"securityContext": {"sysctls": sysctls}});
        let fields = |refused: &[(String, String)]| -> Vec<String> {
            let field = |it: &(String, String)| {
                it.0.trim_start_matches("spec.securityContext.sysctls")
                    .to_owned()
            };
            refused.iter().map(field).collect()
        };
        let found = refused(&spec);
        assert_eq!(
            fields(&found),
            ["[0].name", "[3].name", "[4].name", "[6].name"]
        );
        assert!(
            found[0]
                .1
                .contains("Invalid value: \"foo-\": must have at most 253")
        );
        assert!(found[3].1.contains("Duplicate value"));
        spec["hostNetwork"] = true.into();
        spec["hostIPC"] = true.into();
        assert_eq!(
            fields(&refused(&spec)),
            [
                "[0].name", "[1].name", "[3].name", "[4].name", "[5].name", "[6].name"
            ]
        );
    }
}
