//! What is measured: one inference, with all its memory at hand.

use std::time::{Duration, Instant};

use infer_core::plan::AlignedBytes;
use infer_core::runtime::{Context, Engine, Output};
use infer_core::session::Session;
use infer_core::value::Value;

/// A model with its inputs, ready to run again and again.
pub struct Target<'s>(Kind<'s>);

enum Kind<'s> {
    /// All is known: nothing is allocated.
    Engine { context: Context<'s>, inputs: Vec<AlignedBytes>, outputs: Vec<AlignedBytes> },
    /// Shapes and values are what each run makes them.
    Session { session: &'s Session, inputs: &'s [Value] },
}

impl<'s> Target<'s> {
    /// The model on these inputs.
    pub fn new(session: &'s Session, inputs: &'s [Value]) -> anyhow::Result<Self> {
        Ok(Target(match session.engine() {
            Some(engine) => Kind::engine(engine, inputs)?,
            None => Kind::Session { session, inputs },
        }))
    }

    /// Runs once; says how long that took.
    pub fn run(&mut self) -> anyhow::Result<Duration> {
        self.timed(None)
    }

    /// Runs once; `each` learns how long each of the session's steps took.
    pub fn run_steps(&mut self, each: &mut dyn FnMut(usize, Duration)) -> anyhow::Result<Duration> {
        self.timed(Some(each))
    }

    fn timed(&mut self, each: Option<&mut dyn FnMut(usize, Duration)>) -> anyhow::Result<Duration> {
        match &mut self.0 {
            Kind::Engine { context, inputs, outputs } => {
                let inputs: Vec<&[u8]> = inputs.iter().map(AlignedBytes::as_slice).collect();
                let mut outputs: Vec<Output<'_>> =
                    outputs.iter_mut().map(|bytes| bytes.as_mut_slice().into()).collect();
                let start = Instant::now();
                match each {
                    None => context.run(&inputs, &mut outputs)?,
                    Some(each) => context.run_timed(&inputs, &mut outputs, each)?,
                }
                Ok(start.elapsed())
            }
            Kind::Session { session, inputs } => {
                let start = Instant::now();
                let _outputs = match each {
                    None => session.run(inputs)?,
                    Some(each) => session.run_timed(inputs, each)?,
                };
                Ok(start.elapsed())
            }
        }
    }
}

impl<'s> Kind<'s> {
    fn engine(engine: &'s Engine, inputs: &[Value]) -> anyhow::Result<Self> {
        let info = engine.info();
        let tensors = inputs.iter().filter_map(Value::as_tensor);
        Ok(Kind::Engine {
            context: engine.context(),
            inputs: tensors.map(|tensor| AlignedBytes::copy_of(tensor.data())).collect::<Result<_, _>>()?,
            outputs: info
                .outputs
                .iter()
                .map(|port| AlignedBytes::zeroed(port.ty.bytes()))
                .collect::<Result<_, _>>()?,
        })
    }
}
