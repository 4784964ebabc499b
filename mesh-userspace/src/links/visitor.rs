//! A thread that goes into network namespaces for a moment each, one after the other.

use std::{
    sync::{Arc, mpsc},
    thread,
};

use tokio::{runtime::Handle, sync::oneshot};

use super::{LinkError, Namespace};

type Errand = Box<dyn FnOnce() + Send>;

/// Where work of microseconds is to be done in thousands of namespaces, a thread for each would cost more than the work. What a
/// visit makes, a socket or a child, stays in the namespace; the thread itself goes home, since a namespace lives for as long
/// as a thread is in it.
#[derive(Clone, Debug)]
pub(crate) struct Visitor {
    errands: mpsc::Sender<Errand>,
    home: Arc<Namespace>,
}

impl Visitor {
    /// At home in the namespace of the calling thread. The thread knows the caller's tokio runtime, and ends when the last
    /// clone of the visitor is gone.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn new(name: &str) -> Result<Self, LinkError> {
        let home = Arc::new(Namespace::current()?);
        let (errands, waiting) = mpsc::channel::<Errand>();
        let runtime = Handle::current();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let _runtime = runtime.enter();
                waiting.into_iter().for_each(|errand| errand());
            })
            .map_err(|error| home.cut_short(&error.to_string()))?;
        Ok(Self { errands, home })
    }

    /// Does `work` inside of a namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub(crate) async fn visit<T: Send + 'static>(
        &self,
        namespace: Namespace,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LinkError> {
        let (sender, done) = oneshot::channel();
        let home = Arc::clone(&self.home);
        let inside = namespace.clone();
        let errand = move || {
            let outcome = inside.enter().map(|()| work());
            if let Err(error) = home.enter() {
                tracing::warn!(%error, "a thread could not leave a task's network namespace, and holds it until its next visit");
            }
            // Nobody is left to tell when the caller has gone away.
            let _ = sender.send(outcome);
        };
        let gone = || namespace.cut_short("the thread for it has ended");
        self.errands.send(Box::new(errand)).map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[tokio::test]
    async fn it_is_where_it_was_sent_and_then_at_home() {
        let visitor = Visitor::new("visitor").unwrap();
        let here = Namespace::current().unwrap();
        for _ in 0..2 {
            let scratch = Scratch::new("visited");
            let there =
                visitor.visit(scratch.namespace(), || Namespace::current().unwrap().id()).await.unwrap();
            assert_eq!(there, scratch.namespace().id());
            assert_ne!(there, here.id());
            assert_eq!(
                visitor.visit(here.clone(), || Namespace::current().unwrap().id()).await.unwrap(),
                here.id()
            );
        }
    }

    #[tokio::test]
    async fn the_loopback_interface_is_raised() {
        let scratch = Scratch::new("loopback");
        scratch.ip(&["link", "set", "lo", "down"]);
        let links = scratch.links().await;
        links.raise_loopback().await.unwrap();
        links.raise_loopback().await.unwrap();
        assert!(scratch.ip(&["link", "show", "lo"]).contains(",UP"));
    }
}
