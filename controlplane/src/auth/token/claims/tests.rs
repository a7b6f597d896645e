//! Tests of `auth::token::claims`.
#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

fn claims(change: impl FnOnce(&mut serde_json::Value)) -> Claims {
    let mut value = json!({
        "aud": [ISSUER, "vault"], "exp": 4600, "iat": 1000, "nbf": 1000, "iss": ISSUER, "jti": "j",
        "kubernetes.io": {
            "namespace": "shop",
            "node": {"name": "n1", "uid": "nu"},
            "pod": {"name": "web", "uid": "pu"},
            "serviceaccount": {"name": "robot", "uid": "su"},
        },
        "sub": "system:serviceaccount:shop:robot",
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn wanted(audience: &str) -> Vec<String> {
    vec![audience.to_owned()]
}

#[test]
fn a_bound_token_names_its_user_and_what_it_is_bound_to() {
    let bound = check(&claims(|_| ()), ISSUER, &wanted(ISSUER), 2000).unwrap();
    assert_eq!(bound.audiences, [ISSUER]);
    let user = bound.user();
    assert_eq!(user.name, "system:serviceaccount:shop:robot");
    assert_eq!(
        user.groups,
        [
            "system:serviceaccounts",
            "system:serviceaccounts:shop",
            "system:authenticated"
        ]
    );
    assert_eq!(user.uid, "su");
    assert_eq!(user.extra["authentication.kubernetes.io/pod-uid"], ["pu"]);
    assert_eq!(
        user.extra["authentication.kubernetes.io/credential-id"],
        ["JTI=j"]
    );
    let single = claims(|value| value["aud"] = "vault".into());
    assert!(check(&single, ISSUER, &wanted("vault"), 2000).is_ok());
}

#[test]
fn time_audience_issuer_and_subject_must_fit() {
    let at = |now| check(&claims(|_| ()), ISSUER, &wanted(ISSUER), now).map(drop);
    assert_eq!(at(4660), Ok(()));
    assert_eq!(at(4661), Err(TokenError::Expired));
    assert_eq!(at(939), Err(TokenError::NotYet));
    let other = check(&claims(|_| ()), ISSUER, &wanted("elsewhere"), 2000);
    assert!(matches!(other, Err(TokenError::Audience { .. })));
    let changed = |change: &dyn Fn(&mut serde_json::Value)| {
        check(&claims(change), ISSUER, &wanted(ISSUER), 2000).map(drop)
    };
    assert_eq!(
        changed(&|value| value["iss"] = "https://else.where".into()),
        Err(TokenError::Issuer)
    );
    assert_eq!(
        changed(&|value| value["sub"] = "system:serviceaccount:shop:admin".into()),
        Err(TokenError::Malformed)
    );
    let endless = |value: &mut serde_json::Value| {
        value.as_object_mut().unwrap().remove("exp");
    };
    assert_eq!(changed(&endless), Err(TokenError::Malformed));
}

#[test]
fn a_token_of_a_secret_is_for_whoever_asks() {
    let claims: Claims = serde_json::from_value(json!({
        "iss": LEGACY_ISSUER,
        "kubernetes.io/serviceaccount/namespace": "shop",
        "kubernetes.io/serviceaccount/secret.name": "robot-token",
        "kubernetes.io/serviceaccount/service-account.name": "robot",
        "kubernetes.io/serviceaccount/service-account.uid": "su",
        "sub": "system:serviceaccount:shop:robot",
    }))
    .unwrap();
    let bound = check(&claims, ISSUER, &wanted("any"), i64::MAX).unwrap();
    assert!(bound.legacy);
    assert_eq!(bound.secret.unwrap().name, "robot-token");
}
