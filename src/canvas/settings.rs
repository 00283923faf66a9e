//! The settings of a canvas: its options, callbacks and key.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime};

use super::form::{Canvas, Extras, Form};
use super::id::Id;
use super::options::When;
use super::rate_limit::RateLimit;
use super::stamps::Stamps;

impl Canvas {
    /// Sets the queue of its tasks, as [`Signature::queue`](crate::Signature::queue) does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// let canvas = Canvas::task("add", (2, 2)).queue("sums");
    /// assert!(canvas.to_json().unwrap().contains(r#""queue":"sums""#));
    /// ```
    pub fn queue(mut self, queue: impl Into<Cow<'static, str>>) -> Self {
        self.extras().options.queue = Some(queue.into());
        self
    }

    /// Sets the priority, as [`Signature::priority`](crate::Signature::priority) does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// let canvas = Canvas::task("add", (2, 2)).priority(9);
    /// assert!(canvas.to_json().unwrap().contains(r#""priority":9"#));
    /// ```
    pub fn priority(mut self, priority: u8) -> Self {
        self.extras().options.priority = Some(priority);
        self
    }

    /// Sets the number of retries, as [`Signature::max_retries`](crate::Signature::max_retries)
    /// does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// let canvas = Canvas::task("add", (2, 2)).max_retries(3);
    /// assert!(canvas.to_json().unwrap().contains(r#""max_retries":3"#));
    /// ```
    pub fn max_retries(mut self, max_retries: u32) -> Self {
        self.extras().options.max_retries = Some(max_retries);
        self
    }

    /// Sets the hard time limit, as [`Signature::time_limit`](crate::Signature::time_limit) does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let canvas = Canvas::task("add", (2, 2)).time_limit(Duration::from_secs(45));
    /// assert!(canvas.to_json().unwrap().contains(r#""time_limit":45"#));
    /// ```
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.extras().options.time_limit = Some(limit);
        self
    }

    /// Sets the soft time limit, as
    /// [`Signature::soft_time_limit`](crate::Signature::soft_time_limit) does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let canvas = Canvas::task("add", (2, 2)).soft_time_limit(Duration::from_secs(30));
    /// assert!(canvas.to_json().unwrap().contains(r#""soft_time_limit":30"#));
    /// ```
    pub fn soft_time_limit(mut self, limit: Duration) -> Self {
        self.extras().options.soft_time_limit = Some(limit);
        self
    }

    /// Delays the start, as [`Signature::countdown`](crate::Signature::countdown) does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let canvas = Canvas::task("add", (2, 2)).countdown(Duration::from_secs(60));
    /// assert!(canvas.to_json().unwrap().contains(r#""countdown":60"#));
    /// ```
    pub fn countdown(mut self, delay: Duration) -> Self {
        self.extras().options.eta = Some(When::In(delay));
        self
    }

    /// Delays the start, as [`Signature::eta`](crate::Signature::eta) does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::SystemTime;
    /// let canvas = Canvas::task("add", (2, 2)).eta(SystemTime::UNIX_EPOCH);
    /// assert!(canvas.to_json().unwrap().contains(r#""eta":"1970-01-01T00:00:00Z""#));
    /// ```
    pub fn eta(mut self, time: SystemTime) -> Self {
        self.extras().options.eta = Some(When::at(time));
        self
    }

    /// Limits the wait for the start, as [`Signature::expires`](crate::Signature::expires) does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let canvas = Canvas::task("add", (2, 2)).expires(Duration::from_secs(60));
    /// assert!(canvas.to_json().unwrap().contains(r#""expires":60"#));
    /// ```
    pub fn expires(mut self, after: Duration) -> Self {
        self.extras().options.expires = Some(When::In(after));
        self
    }

    /// Limits the wait for the start, as [`Signature::expires_at`](crate::Signature::expires_at)
    /// does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::SystemTime;
    /// let canvas = Canvas::task("add", (2, 2)).expires_at(SystemTime::UNIX_EPOCH);
    /// assert!(canvas.to_json().unwrap().contains(r#""expires":"1970-01-01T00:00:00Z""#));
    /// ```
    pub fn expires_at(mut self, time: SystemTime) -> Self {
        self.extras().options.expires = Some(When::at(time));
        self
    }

    /// Limits the rate of the starts, as [`Signature::rate_limit`](crate::Signature::rate_limit)
    /// does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let sum = app.apply_async(Canvas::task("add", (2, 2)).rate_limit("10/s")).await?;
    /// assert_eq!(sum.get().await?, 4);
    /// # app.shutdown().await }
    /// ```
    pub fn rate_limit<L>(mut self, limit: L) -> Self
    where
        L: TryInto<RateLimit, Error: fmt::Display>,
    {
        match limit.try_into() {
            Ok(limit) => self.extras().options.rate_limit = Some(limit),
            Err(error) => self.form = Form::Refused(error.to_string()),
        }
        self
    }

    /// Sets the key of its tasks for their limits, as
    /// [`Signature::limit_key`](crate::Signature::limit_key) does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// let canvas = Canvas::task("charge", (7,)).rate_limit("5/s").limit_key("acme");
    /// ```
    pub fn limit_key(mut self, key: impl Into<Cow<'static, str>>) -> Self {
        self.extras().options.limit_key = Some(key.into());
        self
    }

    /// Sets a stamp, as [`Signature::stamp`](crate::Signature::stamp) does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// let canvas = Canvas::task("add", (2, 2)).stamp("tenant", "acme");
    /// assert!(canvas.to_json().unwrap().contains(r#""stamped_headers":["tenant"]"#));
    /// ```
    pub fn stamp(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let stamps = &mut self.extras().options.stamps;
        stamps.set(name.into(), value.into());
        self
    }

    /// Sets those of these stamps that it does not have.
    pub(crate) fn stamped(mut self, stamps: &Stamps) -> Self {
        self.add_stamps(stamps);
        self
    }

    fn add_stamps(&mut self, stamps: &Stamps) {
        if !stamps.is_empty() {
            let own = &mut self.extras().options.stamps;
            *own = own.over(stamps);
        }
    }

    /// Adds a callback, as [`Signature::link`](crate::Signature::link) does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let canvas = Canvas::task("add", (2, 2)).link(Canvas::task("add", (1,)));
    /// let sum = app.apply_async(canvas).await?;
    /// sum.get().await?;
    /// assert_eq!(sum.children::<i64>().await?[0].get().await?, 5);
    /// # app.shutdown().await }
    /// ```
    pub fn link(mut self, callback: Self) -> Self {
        let extras = self.extras();
        extras.depth = extras.depth.max(callback.depth());
        extras.link.push(callback);
        self.bounded()
    }

    /// Adds an errback, as [`Signature::link_error`](crate::Signature::link_error) does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn fail() -> Result<(), TaskError> { Err(TaskError::new("no")) }
    /// # #[task] async fn why(failure: TaskFailure) -> String { failure.message }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![fail, why]).start().await?;
    /// let canvas = Canvas::task("fail", ()).link_error(Canvas::task("why", ()));
    /// let failed = app.apply_async(canvas).await?;
    /// assert!(failed.get().await.is_err());
    /// assert_eq!(failed.children::<String>().await?[0].get().await?, "no");
    /// # app.shutdown().await }
    /// ```
    pub fn link_error(mut self, errback: Self) -> Self {
        let extras = self.extras();
        extras.depth = extras.depth.max(errback.depth());
        extras.link_error.push(errback);
        self.bounded()
    }

    /// Makes the second submission with `key` return the first one's handle, as
    /// [`Signature::idempotency_key`](crate::Signature::idempotency_key) does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let sum = || Canvas::task("add", (2, 2)).idempotency_key("sum");
    /// assert_eq!(app.apply_async(sum()).await?.id(), app.apply_async(sum()).await?.id());
    /// # app.shutdown().await }
    /// ```
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.extras().idempotency_key = Some(key.into());
        self
    }

    /// Sets the id of the submission, as [`Signature::task_id`](crate::Signature::task_id) does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let id = app.new_id();
    /// let sum = app.apply_async(Canvas::task("add", (2, 2)).task_id(id)).await?;
    /// assert_eq!(sum.id(), id);
    /// # app.shutdown().await }
    /// ```
    pub fn task_id(mut self, id: Id) -> Self {
        self.extras().task_id = Some(id);
        self
    }

    /// Adds the settings of the surrounding group; the group's options take precedence.
    pub(crate) fn with_extras(mut self, outer: &Extras) -> Self {
        let extras = self.extras();
        extras.options = extras.options.merged_under(&outer.options);
        extras.link.extend_from_slice(&outer.link);
        extras.link_error.extend_from_slice(&outer.link_error);
        extras.depth = extras.depth.max(outer.depth);
        self.bounded()
    }

    pub(crate) fn with_errbacks(mut self, errbacks: &[Canvas]) -> Self {
        if !errbacks.is_empty() {
            self.extras
                .get_or_insert_default()
                .link_error
                .extend_from_slice(errbacks);
        }
        self
    }
}

impl Extras {
    /// Gives the callbacks the stamps of the canvas that they belong to.
    pub(crate) fn stamp_callbacks(&mut self, stamps: &Stamps) {
        let callbacks = self.link.iter_mut().chain(&mut self.link_error);
        callbacks.for_each(|callback| callback.add_stamps(stamps));
    }
}
