//! Finds the handwritten digits on a page, prints them and draws them.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use digits::{Digits, NAMES, Page};
use infer_embed::vision;

const USAGE: &str = "\
Finds handwritten digits on a page.

Usage: digits [--image FILE] [--out FILE] [--threshold SCORE]

  --image FILE       the page, PNG or JPEG, of any size [default: a page bundled with the program]
  --out FILE         where the page with the boxes drawn on it goes, PNG [default: digits.png]
  --threshold SCORE  the least score of a digit, 0 to 1 [default: 0.5]";

static BUNDLED_PAGE: &[u8] = include_bytes!("../pages/000.png");

struct Arguments {
    image: Option<PathBuf>,
    out: PathBuf,
    threshold: f32,
}

/// The arguments, or `None` where help is asked for.
fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let mut parsed = Arguments { image: None, out: "digits.png".into(), threshold: 0.5 };
    while let Some(name) = arguments.next() {
        if name == "--help" || name == "-h" {
            return Ok(None);
        }
        let mut value = || arguments.next().ok_or_else(|| format!("{name} takes a value; see --help"));
        match name.as_str() {
            "--image" => parsed.image = Some(value()?.into()),
            "--out" => parsed.out = value()?.into(),
            "--threshold" => {
                let text = value()?;
                let score = text.parse().ok().filter(|score| (0.0..=1.0).contains(score));
                parsed.threshold =
                    score.ok_or_else(|| format!("--threshold {text:?} is no number from 0 to 1"))?;
            }
            _ => return Err(format!("unknown argument {name:?}; see --help")),
        }
    }
    Ok(Some(parsed))
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let mut picture = match &arguments.image {
        Some(path) => vision::load(path)?,
        None => vision::decode(BUNDLED_PAGE)?,
    };
    let page = Page::new(&picture)?;
    let detector = Digits::new()?;
    let started = Instant::now();
    let found = detector.detect(&page, arguments.threshold)?;
    let elapsed = started.elapsed();

    println!("digit  score     x0     y0     x1     y1");
    for detection in &found {
        let b = detection.bbox;
        println!(
            "{:>5}  {:.3}  {:5.1}  {:5.1}  {:5.1}  {:5.1}",
            NAMES[detection.class], detection.score, b.x0, b.y0, b.x1, b.y1
        );
    }
    println!("{} digits in {:.2} ms ({:?})", found.len(), elapsed.as_secs_f64() * 1e3, detector.backend());

    vision::draw_detections(&mut picture, &found, &NAMES);
    vision::save_png(&picture, &arguments.out)?;
    println!("saved {}", arguments.out.display());
    Ok(())
}

fn main() -> ExitCode {
    let outcome = match parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => run(&arguments),
        Ok(None) => {
            println!("{USAGE}");
            Ok(())
        }
        Err(message) => Err(message.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("digits: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    fn parsed(line: &str) -> Result<Option<super::Arguments>, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_checked() {
        let arguments = parsed("--image a.png --threshold 0.25").unwrap().unwrap();
        assert_eq!(arguments.image.unwrap().to_str(), Some("a.png"));
        assert_eq!(arguments.threshold, 0.25);
        assert!(parsed("--help").unwrap().is_none());
        for (line, says) in
            [("--out", "takes a value"), ("--threshold 2", "0 to 1"), ("page.png", "page.png")]
        {
            let message = parsed(line).err().unwrap();
            assert!(message.contains(says), "{message}");
        }
    }
}
