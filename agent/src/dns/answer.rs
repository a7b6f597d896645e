//! From a request to a reply: the zone first, upstream resolvers for what is not in it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hickory_proto::op::{Edns, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use hickory_server::zone_handler::MessageResponseBuilder;
use rand::seq::SliceRandom;

use super::forward::{Forward, is_forwardable};
use super::metrics::Metrics;
use super::zone::{Answer, Zone};

/// What we take over UDP and send at most: no fragments on any path.
const MAX_UDP: u16 = 1232;
const MIN_UDP: u16 = 512;
const MAX_ALIASES: usize = 8;

/// How long a question about a cluster name waits for the control plane to tell which there are, after a start. Clients
/// give up after 5 s.
const UNKNOWN: Duration = Duration::from_secs(4);

/// How much the zone has of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// It would deny names that exist.
    Nothing,
    /// What there was when an earlier agent last heard. What it has is told; that a name is not there is told once the
    /// control plane has had the time to say otherwise.
    Remembered {
        settled: Instant,
    },
    All,
}

impl Known {
    /// How long a reply may have to wait for better knowledge; nothing if it need not.
    fn wait(self, reply: &Reply, now: Instant) -> Option<Duration> {
        match self {
            Self::Nothing => Some(UNKNOWN),
            Self::Remembered { settled } if reply.answers.is_empty() => {
                Some(settled.saturating_duration_since(now)).filter(|wait| !wait.is_zero())
            }
            Self::Remembered { .. } | Self::All => None,
        }
    }
}

/// Answers questions; shared by all sockets.
pub(crate) struct Answerer {
    pub(crate) zone: ArcSwap<Zone>,
    pub(crate) known: tokio::sync::watch::Sender<Known>,
    pub(crate) forward: Forward,
    pub(crate) metrics: Metrics,
}

/// A reply that is there, or one that has to be waited for.
pub(crate) enum Step {
    Done(Vec<u8>),
    Forward(Box<Question>),
}

/// A question that cannot be answered at once.
pub(crate) enum Question {
    Outside(Outside),
    /// About a cluster name, before all of the zone is known; how long it may wait for that.
    Early(Request, Duration),
}

/// A question that goes on outside.
pub(crate) struct Outside {
    request: Request,
    started: Instant,
    /// Aliases in the zone that led there.
    aliases: Vec<Record>,
    query: Query,
}

struct Reply {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

impl Reply {
    fn error(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }
}

enum Local {
    Reply(Reply),
    Elsewhere { aliases: Vec<Record>, query: Query },
}

impl Answerer {
    /// Answers what the zone can answer. Never waits.
    pub(crate) fn start(&self, request: Request) -> Step {
        self.answer(request, true)
    }

    /// `patient`: what may become better by waiting is not answered yet.
    fn answer(&self, request: Request, patient: bool) -> Step {
        let started = Instant::now();
        let local = match check(&request) {
            Err(code) => Local::Reply(Reply::error(code)),
            Ok((name, kind)) => local(&self.zone.load(), name, kind),
        };
        match local {
            Local::Reply(mut reply) => {
                let known = *self.known.borrow();
                let wait = known.wait(&reply, started).filter(|_| reply.authoritative);
                match wait {
                    Some(wait) if patient => {
                        return Step::Forward(Box::new(Question::Early(request, wait)));
                    }
                    // Nobody knows whether what the zone says is so.
                    Some(_) if known == Known::Nothing => {
                        reply = Reply::error(ResponseCode::ServFail)
                    }
                    _ => {}
                }
                let kind = kind(&request);
                let taken = started.elapsed();
                self.metrics.answered("cluster", kind, reply.code, taken);
                Step::Done(encode(&request, reply))
            }
            Local::Elsewhere { aliases, query } => {
                Step::Forward(Box::new(Question::Outside(Outside {
                    request,
                    started,
                    aliases,
                    query,
                })))
            }
        }
    }

    pub(crate) async fn finish(&self, question: Question) -> Vec<u8> {
        let (request, wait) = match question {
            Question::Outside(question) => return self.ask(question).await,
            Question::Early(request, wait) => (request, wait),
        };
        let mut known = self.known.subscribe();
        let all = known.wait_for(|known| *known == Known::All);
        let _ = tokio::time::timeout(wait, all).await;
        match self.answer(request, false) {
            Step::Done(reply) => reply,
            Step::Forward(question) => match *question {
                Question::Outside(question) => self.ask(question).await,
                Question::Early(request, _) => {
                    encode(&request, Reply::error(ResponseCode::ServFail))
                }
            },
        }
    }

    async fn ask(&self, question: Outside) -> Vec<u8> {
        let outcome = self.forward.lookup(question.query).await;
        let mut answers = question.aliases;
        let authoritative = !answers.is_empty();
        answers.extend(outcome.answers);
        let reply = Reply {
            code: outcome.code,
            authoritative,
            answers,
            authorities: outcome.authorities,
            additionals: Vec::new(),
        };
        let taken = question.started.elapsed();
        let kind = kind(&question.request);
        self.metrics.answered("upstream", kind, reply.code, taken);
        encode(&question.request, reply)
    }

    /// `known`: how much the zone has from now on, if that is new.
    pub(crate) fn swap(&self, zone: Arc<Zone>, known: Option<Known>) {
        self.zone.store(zone);
        if let Some(known) = known {
            self.known.send_replace(known);
        }
    }
}

fn kind(request: &Request) -> RecordType {
    let first = request.queries.queries().first();
    first.map_or(RecordType::ZERO, |query| query.query_type())
}

/// What is not a plain question for one name.
fn check(request: &Request) -> Result<(&Name, RecordType), ResponseCode> {
    if request.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Err(ResponseCode::BADVERS);
    }
    let [query] = request.queries.queries() else {
        return Err(ResponseCode::FormErr);
    };
    let query = query.original();
    if query.query_class() != DNSClass::IN || !is_forwardable(query.query_type()) {
        return Err(ResponseCode::Refused);
    }
    Ok((query.name(), query.query_type()))
}

/// Follows aliases as long as they stay in the zone.
fn local(zone: &Zone, name: &Name, kind: RecordType) -> Local {
    let mut aliases = Vec::new();
    let mut name = name.clone();
    while aliases.len() < MAX_ALIASES {
        let (code, mut answers, additionals) = match zone.lookup(&name, kind) {
            Answer::Records {
                answers,
                additionals,
            } => (ResponseCode::NoError, answers, additionals),
            Answer::NoName => (ResponseCode::NXDomain, Vec::new(), Vec::new()),
            Answer::Alias { record, target } => {
                aliases.push(*record);
                if kind == RecordType::CNAME {
                    return Local::Reply(reply(ResponseCode::NoError, aliases, Vec::new(), None));
                }
                name = target;
                continue;
            }
            Answer::Elsewhere => {
                let query = Query::query(name.to_lowercase(), kind);
                return Local::Elsewhere { aliases, query };
            }
        };
        let soa = answers.is_empty().then(|| zone.soa(&name));
        // Clients take the first: everyone gets a turn.
        answers.shuffle(&mut rand::rng());
        aliases.extend(answers);
        return Local::Reply(reply(code, aliases, additionals, soa));
    }
    Local::Reply(Reply::error(ResponseCode::ServFail))
}

fn reply(
    code: ResponseCode,
    answers: Vec<Record>,
    additionals: Vec<Record>,
    soa: Option<Record>,
) -> Reply {
    Reply {
        code,
        authoritative: true,
        answers,
        authorities: soa.into_iter().collect(),
        additionals,
    }
}

fn encode(request: &Request, reply: Reply) -> Vec<u8> {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.authoritative = reply.authoritative;
    metadata.recursion_available = true;
    metadata.response_code = reply.code;
    let client = request.edns.as_ref();
    let edns = client.map(|_| {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP).set_version(0);
        edns.set_rcode_high(reply.code.high());
        edns
    });
    let limit = match request.protocol() {
        Protocol::Udp => client.map_or(MIN_UDP, |e| e.max_payload().clamp(MIN_UDP, MAX_UDP)),
        _ => u16::MAX,
    };
    let mut builder = MessageResponseBuilder::from_message_request(request);
    if let Some(edns) = &edns {
        builder.edns(edns);
    }
    let response = builder.build(
        metadata,
        &reply.answers,
        &reply.authorities,
        [],
        &reply.additionals,
    );
    let mut bytes = Vec::with_capacity(512);
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    if let Err(error) = response.destructive_emit(&mut encoder) {
        tracing::warn!(%error, "reply cannot be encoded");
        return failure(request.as_slice(), ResponseCode::ServFail);
    }
    bytes
}

/// A reply of a header only, to something of which only the header may be readable.
pub(crate) fn failure(query: &[u8], code: ResponseCode) -> Vec<u8> {
    let mut reply = vec![0; 12];
    let Some(header) = query.get(..12) else {
        return Vec::new();
    };
    reply[..2].copy_from_slice(&header[..2]);
    // Response, same operation, recursion as desired and available.
    reply[2] = 0x80 | (header[2] & 0x79);
    reply[3] = 0x80 | code.low();
    reply
}
