//! The stage of a stream of a handle: a source of items that is asked for one at a time.

use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Where the items of a stream come from.
pub(super) trait Source: Send + 'static {
    type Item: Send;

    /// Waits for the next item. If the future is dropped, none is lost.
    fn next(&mut self) -> impl Future<Output = Self::Item> + Send;
}

/// The stage of a stream over a source.
pub(super) enum Stage<S: Source> {
    Idle(S),
    /// A poll has begun to wait for the next item.
    Waiting(Next<S>),
    Over,
}

type Next<S> = Pin<Box<dyn Future<Output = (S, <S as Source>::Item)> + Send>>;

impl<S: Source> Stage<S> {
    /// Waits for the next item; `None` if the stream is over.
    pub(super) async fn next(&mut self) -> Option<S::Item> {
        match self {
            // The wait belongs to this future: a task that gives it up gets its slot back.
            Self::Idle(source) => Some(source.next().await),
            Self::Waiting(_) | Self::Over => poll_fn(|context| self.poll_next(context)).await,
        }
    }

    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let mut wait = match mem::replace(self, Self::Over) {
            Self::Over => return Poll::Ready(None),
            Self::Waiting(wait) => wait,
            Self::Idle(mut source) => Box::pin(async move {
                let next = source.next().await;
                (source, next)
            }),
        };
        match wait.as_mut().poll(context) {
            Poll::Pending => {
                *self = Self::Waiting(wait);
                Poll::Pending
            }
            Poll::Ready((source, next)) => {
                *self = Self::Idle(source);
                Poll::Ready(Some(next))
            }
        }
    }
}
