//! Of a batch what a simulated agent looks at; the rest is passed over without being decoded. The tags are those of
//! `waggle.node.v1`.

use bytes::Bytes;
use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Batch {
    #[prost(uint64, tag = "1")]
    pub(super) revision: u64,
    #[prost(bool, tag = "2")]
    pub(super) full: bool,
    #[prost(bool, tag = "3")]
    pub(super) last: bool,
    #[prost(message, repeated, tag = "4")]
    pub(super) pods: Vec<Pod>,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    pub(super) slices: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub(super) struct Pod {
    #[prost(string, tag = "1")]
    pub(super) namespace: String,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(string, tag = "3")]
    pub(super) uid: String,
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) json: Bytes,
}

/// A slice's name without the rest of it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SliceName {
    #[prost(string, tag = "2")]
    pub(super) name: String,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proto::node::v1 as wire;

    use super::*;

    #[test]
    fn the_tags_are_those_of_the_protocol() {
        let slice = wire::EndpointSliceChange {
            namespace: "n".to_owned(),
            name: "s".to_owned(),
            slice: None,
        };
        let batch = wire::Batch {
            revision: 7,
            full: true,
            last: true,
            pods: vec![wire::PodChange {
                namespace: "n".to_owned(),
                name: "p".to_owned(),
                uid: "u".to_owned(),
                pod_json: "{}".into(),
                held: true,
                ..wire::PodChange::default()
            }],
            endpoint_slices: vec![slice.clone()],
            ..wire::Batch::default()
        };
        let slim = Batch::decode(batch.encode_to_vec().as_slice()).unwrap();
        assert_eq!((slim.revision, slim.full, slim.last), (7, true, true));
        assert_eq!(slim.pods[0].uid, "u");
        assert_eq!(slim.pods[0].json, "{}");
        let name = SliceName::decode(slim.slices[0].clone()).unwrap().name;
        assert_eq!(name, "s");
        let whole = wire::EndpointSliceChange::decode(slim.slices[0].clone()).unwrap();
        assert_eq!(whole, slice);
    }
}
