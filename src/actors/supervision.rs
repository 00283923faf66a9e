//! Children: what each of them gets from its supervisor, and how the supervisor learns its end.

use std::cell::Cell;
use std::ops::Deref;

use actix::{Actor, AsyncContext, Context, Handler};

use super::chain::ChainActor;
use super::chord::ChordActor;
use super::fold::FoldActor;
use super::group::GroupActor;
use super::journal::Act;
use super::post::Post;
use super::shell::Shell;
use crate::canvas::freeze::{Def, Node};
use crate::canvas::id::Id;
use crate::canvas::machine::place::Place;
use crate::canvas::machine::revocation::{Stand, stand};
use crate::canvas::machine::{Change, Index, Record, Report};
use crate::canvas::outcome::{FailureKind, Outcome, TaskFailure, Value};
use crate::messages::supervisor::{ChildEnded, ChildStopped, Mail, Respawn, Word};

thread_local! {
    /// An actor of this thread was lost. Only from then on is there anybody without a supervisor.
    static LOST: Cell<bool> = const { Cell::new(false) };
}

/// Says whether an actor that this post is above of has lost its supervisor, or one further up. It is in
/// nobody's place then, since what was lost is started again from the store: it ends, and says and
/// records nothing.
pub(crate) fn is_orphaned(above: &Post) -> bool {
    LOST.get() && !above.is_held()
}

/// The index under which a group's barrier is watched.
pub(crate) const BARRIER: Index = Index::MAX - 1;

/// A child to be started, and then its actor's tie to its supervisor.
#[derive(Debug)]
pub(crate) struct Child {
    place: Place,
    pub(crate) resume: Resume,
    reports_to: Post,
    tether: Tether,
}

impl Deref for Child {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

/// What the store may know of a child.
#[derive(Clone, Debug)]
pub(crate) enum Resume {
    /// Nothing: it has never been started.
    Fresh,
    /// It may have been started before: how far it got, as its supervisor's stream says, and
    /// there may be a stream of its own.
    Stored(Option<Change>),
}

/// Ties a child to its supervisor. It goes when the child's actor goes, and says so: actix tells
/// nobody of an actor that panics.
#[derive(Debug)]
pub(crate) struct Tether {
    root: Id,
    index: Index,
    supervisor: Post,
    reported: bool,
}

impl Tether {
    pub(crate) fn new(root: Id, index: Index, supervisor: Post) -> Self {
        Self {
            root,
            index,
            supervisor,
            reported: false,
        }
    }

    pub(crate) fn supervisor(&self) -> &Post {
        &self.supervisor
    }

    /// The child has said its last word: its end is no loss.
    pub(crate) fn release(&mut self) {
        self.reported = true;
    }
}

impl Drop for Tether {
    fn drop(&mut self) {
        if !self.reported {
            LOST.set(true);
        }
        self.supervisor.send(Word::Stopped(ChildStopped {
            root: self.root,
            index: self.index,
            lost: !self.reported,
        }));
    }
}

impl Child {
    /// `supervisor` is told when its actor is gone.
    pub(crate) fn new(
        place: Place,
        resume: Resume,
        reports_to: Post,
        supervisor: Post,
    ) -> Box<Self> {
        // It is large, and goes through many hands.
        Box::new(Self {
            tether: Tether::new(place.root, place.index, supervisor),
            place,
            resume,
            reports_to,
        })
    }

    /// Says whether it is a task that can start at once: it has not been started before, and waits
    /// for no time.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.resume, Resume::Fresh | Resume::Stored(None))
            && !matches!(&self.def().options, Some(own) if own.eta.is_some() || own.expires.is_some())
    }

    /// Where it stands, and each above it.
    pub(crate) fn path(&self) -> impl Iterator<Item = Stand> + '_ {
        let own = stand(self.stream, self.index);
        std::iter::once(own).chain(self.tether.supervisor.path())
    }

    /// The post of its actor, for children of its own.
    pub(crate) fn post<A>(&self, context: &Context<A>) -> Post
    where
        A: Actor<Context = Context<A>> + Handler<Mail>,
    {
        let own = stand(self.stream, self.index);
        Post::of(context, Some((own, self.tether.supervisor.clone())))
    }

    /// As [`is_orphaned`].
    pub(crate) fn is_orphaned(&self) -> bool {
        is_orphaned(&self.reports_to)
    }

    /// Records how far it has got, in its supervisor's stream.
    pub(crate) fn record(&self, shell: &Shell, change: Change) {
        let index = self.index;
        shell.record(self.stream, Record::Child { index, change });
    }

    /// Its outcome and the callbacks it calls for go to the supervisor.
    pub(crate) fn report(&mut self, shell: &Shell, outcome: Outcome) {
        self.tell(shell, shell.keep(self.id(), outcome).into(), false);
    }

    /// The outcome of its last child is its own.
    pub(crate) fn pass_on(&mut self, shell: &Shell, report: Report) {
        self.tell(shell, report, true);
    }

    /// The failure of a child that is not the last is its own.
    pub(crate) fn fail(&mut self, shell: &Shell, report: Report) {
        self.tell(shell, report, false);
    }

    /// It is revoked, or what it is a part of.
    pub(crate) fn revoke(&mut self) {
        let failure = TaskFailure::revoked(self.id(), self.node.name());
        self.say(Outcome::Revoked(failure).into());
    }

    fn tell(&mut self, shell: &Shell, report: Report, of_last: bool) {
        // Of what was on its way here when it was revoked nothing counts.
        if shell.is_revoked(self.root, self.path()) {
            return self.revoke();
        }
        let report = self.last_word(report, of_last);
        self.say(report);
    }

    fn say(&mut self, report: Report) {
        self.tether.release();
        self.reports_to.send(Word::Ended(ChildEnded {
            root: self.root,
            index: self.index,
            report,
        }));
    }

    /// Starts the actor that the child needs; one that takes a list apart, once that is durable
    /// and can be read.
    pub(crate) fn start(self: Box<Self>, shell: &Shell) {
        match &self.input {
            None | Some(Value::Inline(_)) => self.start_now(shell),
            Some(_) if self.node.takes_a_list() => shell.then(Act::Start(self)),
            Some(_) => self.start_now(shell),
        }
    }

    /// As [`start`](Self::start), when nothing is to be waited for.
    pub(crate) fn start_now(mut self: Box<Self>, shell: &Shell) {
        if shell.is_revoked(self.root, self.path()) {
            return self.revoke();
        }
        match self.node.def {
            Def::Task(_) => shell.enroll(self),
            Def::Chain(_) => drop(ChainActor::new(shell.clone(), self).start()),
            Def::Group(_) => drop(GroupActor::new(shell.clone(), self).start()),
            Def::Chord { .. } => drop(ChordActor::new(shell.clone(), self).start()),
            Def::Fold { .. } => drop(FoldActor::new(shell.clone(), self).start()),
        }
    }
}

/// Has this actor told to start child `index` again, once all that the child had recorded is
/// durable and can be read.
pub(crate) fn respawn_later<A>(
    shell: &Shell,
    supervisor: Id,
    index: Index,
    context: &mut Context<A>,
) where
    A: Actor<Context = Context<A>> + Handler<Respawn>,
{
    if shell.is_closed() {
        return;
    }
    tracing::error!(%supervisor, index, "a child's actor was lost and is started again");
    shell.end_orphans();
    let root = supervisor.root();
    shell.then(Act::Respawn(
        context.address().recipient(),
        Respawn { root, index },
    ));
}

/// The last word on a child whose actor dies each time it is started.
pub(crate) fn given_up(shell: &Shell, root: Id, node: &Node) -> Report {
    shell.end_orphans();
    let failure = TaskFailure::new(
        FailureKind::Engine,
        root.node(node.seq),
        node.name(),
        1,
        "its actor died each time it was started; this is a fault in chordal",
    );
    Report::of(node, Outcome::Failure(failure))
}
