//! What is to be done, until it is asked for: bounded, so that nobody can make it grow.

use std::{collections::VecDeque, net::SocketAddr};

use crate::{
    message::{self, Message},
    output::{MOST_DATAGRAM, Output},
    stamp::NodeId,
};

/// How many bytes of messages may wait. What is more is not sent, as if it had been lost on the way.
const MOST_WAITING: usize = 64 << 20;

#[derive(Debug)]
pub(crate) struct Outbox {
    from: NodeId,
    queue: VecDeque<Output>,
    waiting: usize,
    changed: bool,
}

impl Outbox {
    pub(crate) const fn new(from: NodeId) -> Self {
        Self { from, queue: VecDeque::new(), waiting: 0, changed: false }
    }

    /// Sends in a datagram what fits one, and else by a stream.
    pub(crate) fn send(&mut self, to: SocketAddr, message: &Message) {
        self.put(to, message, false);
    }

    /// Sends by a stream.
    pub(crate) fn stream(&mut self, to: SocketAddr, message: &Message) {
        self.put(to, message, true);
    }

    fn put(&mut self, to: SocketAddr, message: &Message, reliable: bool) {
        let Some(message) = message::encode(self.from, message) else { return };
        if self.waiting + message.len() > MOST_WAITING {
            return;
        }
        self.waiting += message.len();
        let reliable = reliable || message.len() > MOST_DATAGRAM;
        self.queue.push_back(Output::Send { to, message, reliable });
    }

    pub(crate) fn tell(&mut self, output: Output) {
        self.queue.push_back(output);
    }

    /// The store or the members have changed: told once, however often they do until it is asked for.
    pub(crate) fn changed(&mut self) {
        if !self.changed {
            self.changed = true;
            self.queue.push_back(Output::Changed);
        }
    }

    pub(crate) fn next(&mut self) -> Option<Output> {
        let output = self.queue.pop_front()?;
        match &output {
            Output::Send { message, .. } => self.waiting = self.waiting.saturating_sub(message.len()),
            Output::Changed => self.changed = false,
            Output::Confirmed { .. } | Output::Refused { .. } | Output::NotTaken(_) => {}
        }
        Some(output)
    }
}
