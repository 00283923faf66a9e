//! Reads the values of a store, wherever they are stored.

use std::sync::Arc;

use super::durable_view::DurableView;
use super::pool;
use crate::canvas::id::Id;
use crate::canvas::machine::fold_run::Run;
use crate::canvas::outcome::Value;
use crate::canvas::payload::{ListWriter, Payload};
use crate::error::{Error, IdError, Result};
use crate::persistence::records::reader::{Elements, ElementsError, Progress, Reader};

impl DurableView {
    /// Returns the bytes of a value of workflow `root`, wherever they are stored.
    pub(crate) async fn load(&self, root: Id, value: Value) -> Result<Payload> {
        if let Value::Inline(payload) = value {
            return Ok(payload);
        }
        let list = self.append(root, value, ListWriter::raw()).await?;
        Ok(list.finish())
    }

    /// Appends a value to the list.
    pub(crate) async fn append(
        &self,
        root: Id,
        value: Value,
        mut list: ListWriter,
    ) -> Result<ListWriter> {
        if let Value::Inline(payload) = value {
            list.push(payload.bytes());
            return Ok(list);
        }
        // A few records are read here: a handover to another thread takes longer.
        let is_small = match &value {
            Value::Gathered { size, .. } => *size <= 64,
            Value::Stored { len, .. } | Value::Args { len, .. } => *len <= 32 << 10,
            Value::Inline(_) | Value::Extended { .. } => false,
        };
        if is_small {
            self.reader()?.write(root, &value, &mut list)?;
            return Ok(list);
        }
        self.read(move |reader| {
            reader.write(root, &value, &mut list)?;
            Ok(list)
        })
        .await
    }

    /// Returns the elements of a stored list; `None` if the value is inline or no list.
    pub(crate) async fn elements(&self, root: Id, value: &Value) -> Result<Option<Elements>> {
        if let Value::Inline(_) = value {
            return Ok(None);
        }
        let value = value.clone();
        self.read(move |reader| match Elements::open(reader, root, &value) {
            Ok(elements) => Ok(Some(elements)),
            Err(ElementsError::Unusable(_)) => Ok(None),
            Err(ElementsError::Store(error)) => Err(error.into()),
        })
        .await
    }

    /// Returns the accumulator of a fold and the items that its function takes in.
    pub(crate) async fn fold_items(
        &self,
        root: Id,
        run: Arc<Run>,
    ) -> Result<(Payload, Vec<Payload>)> {
        self.read(move |reader| {
            let mut items = Vec::with_capacity(run.outcomes.len());
            let mut all = Vec::new();
            for outcome in &run.outcomes {
                reader.flatten(root, outcome.clone(), &mut all)?;
                for outcome in all.drain(..) {
                    items.push(reader.element(root, &outcome, run.settled)?);
                }
            }
            Ok((reader.load(root, &run.acc)?, items))
        })
        .await
    }

    /// Returns the progress of a node.
    pub(crate) async fn progress(&self, id: Id) -> Result<Progress> {
        self.read(move |reader| {
            reader
                .progress(id)?
                .ok_or(Error::Id(IdError::Unknown { id }))
        })
        .await
    }

    /// Runs a read that may be large: on the pool, or on this thread in eager mode and if the
    /// system has no other.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let reader = self.reader()?;
        match &self.runtime {
            None => read(&reader),
            Some(runtime) => {
                let (job, done) = pool::job(move || read(&reader));
                if let Err((job, _)) = runtime.try_run(job) {
                    job();
                }
                match done.await {
                    Ok(Ok(read)) => read,
                    Ok(Err(_)) | Err(_) => Err(self.stop_reason()),
                }
            }
        }
    }
}
