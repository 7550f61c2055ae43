//! The shortest application there is: opens the model in it, runs it once and prints the first element of its output.
//! `INFER_THREADS` says on how many threads.

use infer_embed::{Model, Output};

include!(concat!(env!("OUT_DIR"), "/net.rs"));

fn main() -> infer_embed::Result<()> {
    let net = Net::new()?;
    let inputs: Vec<Vec<f32>> = Net::INPUTS.iter().map(|port| vec![0.5; port.elements().unwrap()]).collect();
    let inputs: Vec<&[u8]> = inputs.iter().map(|input| bytemuck::cast_slice(input)).collect();
    let mut outputs: Vec<Vec<f32>> =
        Net::OUTPUTS.iter().map(|port| vec![0.0; port.elements().unwrap()]).collect();
    let mut places: Vec<Output<'_>> =
        outputs.iter_mut().map(|output| Output::from(bytemuck::cast_slice_mut(output))).collect();
    net.run(&inputs, &mut places)?;
    println!("{}", outputs[0][0]);
    Ok(())
}
