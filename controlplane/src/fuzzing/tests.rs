//! Each parser with bytes that nobody meant, and with what somebody meant after some damage.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message as _;
use proto::raft::v1 as pb;

/// One damage: where, what, how much.
#[derive(Debug, Clone)]
enum Damage {
    Replace(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let place = any::<Index>;
    // What has a meaning somewhere is put in more often than chance would.
    let telling = prop::sample::select(b"{}[]()\"',:/%.=!-\\\0\xff0".to_vec());
    prop_oneof![
        (place(), any::<u8>()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        (place(), telling).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        (place(), vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (place(), 1..16usize).prop_map(|(at, length)| Damage::Remove(at, length)),
        (place(), 1..16usize, 2..64usize)
            .prop_map(|(at, length, times)| Damage::Repeat(at, length, times)),
    ]
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        let at = |index: &Index| index.index(bytes.len() + 1);
        match damage {
            Damage::Replace(index, byte) => {
                let at = at(index);
                if at < bytes.len() {
                    bytes[at] = *byte;
                }
            }
            Damage::Insert(index, more) => {
                let at = at(index);
                bytes.splice(at..at, more.iter().copied());
            }
            Damage::Remove(index, length) => {
                let at = at(index);
                let end = (at + length).min(bytes.len());
                bytes.drain(at..end);
            }
            Damage::Repeat(index, length, times) => {
                let at = at(index);
                let part = bytes[at..(at + length).min(bytes.len())].repeat(*times);
                bytes.splice(at..at, part);
            }
        }
    }
    bytes
}

fn input(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let meant = (prop::sample::select(seeds), vec(damage(), 0..6))
        .prop_map(|(seed, damages)| damaged(seed, &damages));
    prop_oneof![1 => vec(any::<u8>(), 0..256), 9 => meant]
}

fn texts(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"b":"c"}},"spec":{"containers":[
    {"name":"d","image":"e","env":[{"name":"f","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}],
     "livenessProbe":{"httpGet":{"port":"http","path":"/"},"periodSeconds":1},"ports":[{"name":"http","containerPort":80}],
     "resources":{"limits":{"cpu":"100m","memory":"1.5Gi"}},"securityContext":{"runAsUser":1}}],
    "affinity":{"podAntiAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"x",
     "labelSelector":{"matchExpressions":[{"key":"a","operator":"In","values":["b"]}]}}]}},
    "volumes":[{"name":"g","emptyDir":{"sizeLimit":"1Mi"}}],"tolerations":[{"operator":"Exists"}]}}"#;
const YAML: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - &x {name: b, image: c}\n  - *x\n";

/// The bodies of all kinds as a body's test reads them: kind and encoding first.
fn bodies() -> Vec<Vec<u8>> {
    let pods = crate::kinds::all()
        .iter()
        .position(|kind| (kind.group, kind.plural) == ("", "pods"))
        .unwrap_or(0);
    let mut seeds = Vec::new();
    for (number, encoding, text) in [(pods, 0, POD), (pods, 1, YAML)] {
        let mut seed = vec![u8::try_from(number * 3 + encoding).unwrap_or(0)];
        seed.extend(text.as_bytes());
        seeds.push(seed);
    }
    for number in 0..crate::kinds::all().len() {
        let text = r#"{"metadata":{"name":"a"},"spec":{"a":1,"selector":{},"template":{"spec":{}}},"status":{},"data":{},"rules":[{}]}"#;
        let mut seed = vec![u8::try_from(number * 3 % 255).unwrap_or(0)];
        seed.extend(text.as_bytes());
        seeds.push(seed);
    }
    seeds
}

fn messages() -> Vec<Vec<u8>> {
    let id = pb::LogId {
        term: 1,
        node_id: 1,
        index: 1,
    };
    let append = pb::AppendRequest {
        vote: Some(pb::VoteRecord {
            term: 1,
            node_id: 1,
            committed: true,
        }),
        previous: Some(id),
        committed: Some(id),
        entries: vec![pb::LogEntry {
            id: Some(id),
            payload: Some(pb::log_entry::Payload::Blank(pb::Blank {})),
        }],
    };
    (0..6u8)
        .map(|which| {
            let mut seed = vec![which];
            seed.extend(append.encode_to_vec());
            seed
        })
        .collect()
}

fn snapshots() -> Vec<Vec<u8>> {
    let chunk = pb::SnapshotChunk {
        sequence: 0,
        versions: vec![pb::KeyVersion {
            key: "a".to_owned(),
            mod_revision: 1,
            record: Some(pb::VersionRecord {
                create_revision: 1,
                version: 1,
                state: Some(pb::version_record::State::Value(Bytes::from_static(b"x"))),
            }),
        }],
        end: Some(pb::SnapshotEnd {
            versions: 1,
            summary: Some(pb::Summary::default()),
        }),
    };
    let message = chunk.encode_to_vec();
    let mut seed = vec![1, u8::try_from(message.len()).unwrap_or(0)];
    seed.extend(message);
    vec![seed]
}

// As many cases as PROPTEST_CASES says, 256 without.
proptest! {
    #[test]
    fn paths(bytes in input(texts(&[
        "/api/v1/namespaces/a/pods/b/exec", "/apis/apps/v1/watch/deployments", "/api/v1/nodes/a/proxy/%2e%2e/x//y",
        "/apis/a.b/v1/namespaces/c/d/e/status", "/healthz/%zz",
    ]))) {
        super::path(&bytes);
    }

    #[test]
    fn queries(bytes in input(texts(&[
        "limit=5&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhIn0&labelSelector=a%20in%20(b,c)",
        "resourceVersion=0&resourceVersionMatch=NotOlderThan&fieldSelector=metadata.name%3Da&timeoutSeconds=1",
        "dryRun=All&fieldValidation=Strict&fieldManager=x",
    ]))) {
        super::query(&bytes);
    }

    #[test]
    fn bodies_of_writes(bytes in input(bodies())) {
        super::body(&bytes);
    }

    #[test]
    fn patches(bytes in input(texts(&[
        r#"[{"op":"replace","path":"/spec/containers/0/image","value":"x"},{"op":"move","from":"/spec","path":"/spec/a"}]"#,
        r#"{"spec":{"containers":[{"name":"g","image":null,"$patch":"delete"}],"$retainKeys":["containers"],"$setElementOrder/containers":[{"name":"k"}]}}"#,
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","$deleteFromPrimitiveList/finalizers":["e/f"]},"spec":{"containers":[{"name":"n","ports":[{"containerPort":2}]}]}}"#,
    ]))) {
        super::patch(&bytes);
    }

    #[test]
    fn selectors(bytes in input(texts(&[
        "a=b,c.d/e!=f,g in (h,i),!j,k notin (l),m>1", "metadata.name=a,spec.nodeName!=b\\,c", "a in (,), b",
    ]))) {
        super::selector(&bytes);
    }

    #[test]
    fn tokens(bytes in input(texts(&[
        "abcdef.0123456789abcdef", "eyJhbGciOiJFUzI1NiIsImtpZCI6IngifQ.e30.AAAA",
        r#"{"iss":"https://issuer","sub":"system:serviceaccount:a:b","aud":["a"],"exp":9,"kubernetes.io":{"namespace":"a","serviceaccount":{"name":"b","uid":"c"}}}"#,
        r#"{"keys":[{"id":"a","private":"","created":1}]}"#,
    ]))) {
        super::token(&bytes);
    }

    #[test]
    fn expressions(bytes in input(texts(&[
        "self.a.all(x, x > 1) && has(self.c.d)", "cidr('10.0.0.0/8').containsIP(object.c.d)",
        "Object{spec: Object.spec{a: self.a.map(x, string(x)).join(',')}}", "'%s'.format([self]).matches('[a-z]+')",
        "self.?a[?0].orValue(quantity('1').add(2).asInteger())",
    ]))) {
        super::expression(&bytes);
    }

    #[test]
    fn raft_messages(bytes in input(messages())) {
        super::raft(&bytes);
    }

    #[test]
    fn records(bytes in input(messages())) {
        super::record(&bytes);
    }

    #[test]
    fn snapshots_of_peers(bytes in input(snapshots())) {
        super::snapshot(&bytes);
    }

    #[test]
    fn sessions_of_spdy(bytes in vec(any::<u8>(), 0..256)) {
        super::spdy(&bytes);
    }
}
