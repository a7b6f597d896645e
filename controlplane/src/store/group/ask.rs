//! Questions that the layers above ask their like on other members, by topic. The store carries the bytes, over the
//! connections that members have anyway, and knows nothing of them. They are not ordered with anything, and a question
//! may be lost.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use proto::raft::v1 as pb;

use super::{Called, Group};

/// What a layer does with a question of another member; an error is a sentence for whoever asked.
pub(crate) type Answer =
    Arc<dyn Fn(Bytes) -> BoxFuture<'static, Result<Bytes, String>> + Send + Sync>;

/// By topic.
#[derive(Default)]
pub(super) struct Answers(Mutex<HashMap<&'static str, Answer>>);

impl Answers {
    fn find(&self, topic: &str) -> Option<Answer> {
        let answers = self.0.lock().expect("no panic while holding it");
        answers.get(topic).cloned()
    }
}

impl Group {
    /// Questions under this topic are answered so from now on.
    pub(in crate::store) fn answer_with(&self, topic: &'static str, answer: Answer) {
        let mut answers = self.answers.0.lock().expect("no panic while holding it");
        answers.insert(topic, answer);
    }

    pub(in crate::store) async fn asked(&self, ask: pb::AskRequest) -> Result<Bytes, String> {
        match self.answers.find(&ask.topic) {
            Some(answer) => answer(ask.question).await,
            None => Err(format!("nobody here knows of {:?}", ask.topic)),
        }
    }

    /// Asks all other members at once; what those answer that do so in time, errors of others left out.
    pub(in crate::store) async fn ask_others(
        &self,
        topic: &str,
        question: Bytes,
        patience: Duration,
    ) -> Vec<Bytes> {
        let present = self.reports.present();
        let others = self.others().into_iter();
        let others = others.filter(|peer| present.contains(&peer.id));
        let asking = others.map(|peer| {
            let request = pb::peer_request::Request::Ask(pb::AskRequest {
                topic: topic.to_owned(),
                question: question.clone(),
            });
            async move {
                match self.call(&peer, request, patience).await {
                    Ok(pb::peer_response::Response::Ask(answer)) => Some(answer.answer),
                    Ok(_) => None,
                    Err(Called::Refused(refusal)) => {
                        tracing::debug!(peer = peer.id, topic, why = refusal.message, "no answer");
                        None
                    }
                    Err(Called::Failed(error)) => {
                        tracing::debug!(peer = peer.id, topic, %error, "no answer");
                        None
                    }
                }
            }
        });
        let answers = futures::future::join_all(asking).await;
        answers.into_iter().flatten().collect()
    }
}
