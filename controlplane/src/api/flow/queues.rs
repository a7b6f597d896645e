//! Fair queueing of one priority level. Pure: what may begin is returned, and time is not known here.
//!
//! A flow's requests go to one of a few queues that its hash picks (shuffle sharding), the shortest of them. Of the
//! queues that wait, the one that has had the least is served next (start-time fair queueing), so that one greedy
//! flow fills its own queues and delays nobody else's.

use std::collections::VecDeque;

/// How a level's requests wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) queues: usize,
    pub(super) hand_size: usize,
    /// Longest queue.
    pub(super) length: usize,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<u64>,
    /// What it has had, in seats.
    virtual_start: u64,
}

/// Who waits at one level.
#[derive(Debug)]
pub(super) struct Queues {
    shape: Shape,
    queues: Vec<Queue>,
    /// The virtual start of what was served last.
    clock: u64,
    waiting: usize,
}

impl Queues {
    pub(super) fn new(shape: Shape) -> Self {
        let count = shape.queues.max(1);
        Self {
            shape,
            queues: (0..count).map(|_| Queue::default()).collect(),
            clock: 0,
            waiting: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// Puts the request behind others of its kind; false when its queue is full.
    pub(super) fn push(&mut self, request: u64, flow: u64) -> bool {
        let hand = hand(flow, self.queues.len(), self.shape.hand_size);
        let shortest = hand
            .into_iter()
            .min_by_key(|index| self.queues[*index].waiting.len())
            .unwrap_or(0);
        let queue = &mut self.queues[shortest];
        if queue.waiting.len() >= self.shape.length {
            return false;
        }
        if queue.waiting.is_empty() {
            // Having been away is no credit.
            queue.virtual_start = queue.virtual_start.max(self.clock);
        }
        queue.waiting.push_back(request);
        self.waiting += 1;
        true
    }

    /// The request that is to begin next.
    pub(super) fn pop(&mut self) -> Option<u64> {
        let queue = self
            .queues
            .iter_mut()
            .filter(|queue| !queue.waiting.is_empty())
            .min_by_key(|queue| queue.virtual_start)?;
        let request = queue.waiting.pop_front()?;
        self.clock = queue.virtual_start;
        queue.virtual_start += 1;
        self.waiting -= 1;
        Some(request)
    }

    /// It waits no more.
    pub(super) fn remove(&mut self, request: u64) {
        for queue in &mut self.queues {
            let before = queue.waiting.len();
            queue.waiting.retain(|waiting| *waiting != request);
            self.waiting -= before - queue.waiting.len();
        }
    }
}

/// The different queues that a flow may use, dealt from its hash like cards.
fn hand(flow: u64, queues: usize, size: usize) -> Vec<usize> {
    let size = size.clamp(1, queues);
    let mut rest = flow;
    let mut deck: Vec<usize> = (0..queues).collect();
    let mut hand = Vec::with_capacity(size);
    for _ in 0..size {
        let left = deck.len() as u64;
        let at = usize::try_from(rest % left).unwrap_or(0);
        rest /= left;
        hand.push(deck.swap_remove(at));
    }
    hand
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        queues: 64,
        hand_size: 6,
        length: 50,
    };

    #[test]
    fn a_hand_has_different_cards() {
        for flow in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
            let mut hand = hand(flow, 64, 6);
            hand.sort_unstable();
            hand.dedup();
            assert_eq!(hand.len(), 6, "{flow}");
        }
        assert_eq!(hand(7, 1, 1), [0]);
        assert_eq!(hand(7, 2, 9).len(), 2);
    }

    #[test]
    fn one_greedy_flow_delays_nobody_else() {
        let mut queues = Queues::new(SHAPE);
        for request in 0..200 {
            assert!(queues.push(request, 0xdead_beef_0000_0001));
        }
        // Another flow comes late, and is among the first few to be served.
        assert!(queues.push(1000, 0x0123_4567_89ab_cdef));
        let order: Vec<u64> = std::iter::from_fn(|| queues.pop()).collect();
        let place = order.iter().position(|request| *request == 1000);
        assert!(
            place.is_some_and(|place| place <= SHAPE.hand_size),
            "{place:?}"
        );
        assert_eq!(order.len(), 201);
        assert_eq!(queues.len(), 0);
    }

    #[test]
    fn queues_are_bounded_and_who_gives_up_is_forgotten() {
        let shape = Shape {
            queues: 1,
            hand_size: 1,
            length: 2,
        };
        let mut queues = Queues::new(shape);
        assert!(queues.push(1, 0) && queues.push(2, 0));
        assert!(!queues.push(3, 0));
        queues.remove(1);
        assert!(queues.push(3, 0));
        assert_eq!(queues.pop(), Some(2));
        assert_eq!(queues.pop(), Some(3));
        assert_eq!(queues.pop(), None);
    }
}
