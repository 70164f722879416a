//! The other half: building it, starting it, asking it.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

/// Memory, no devices, nothing that another program of DPDK's could mind.
const EAL: [&str; 8] =
    ["--no-huge", "-m", "256", "--no-pci", "--no-shconf", "--no-telemetry", "--iova-mode=va", "--log-level=error"];

const SOURCES: [&str; 7] = ["main.c", "frames.c", "checksum.c", "toeplitz.c", OF_THIS_PROCESSOR, "gro.c", "gso.c"];
/// Compiled for the processor that it runs on, whatever the others are.
const OF_THIS_PROCESSOR: &str = "gfni.c";

/// The program, in a folder that goes with it.
#[derive(Debug)]
pub(crate) struct Program {
    folder: PathBuf,
}

/// What became of building it.
#[derive(Debug)]
pub(crate) enum Built {
    /// It is there.
    Program(Program),
    /// Something is missing here.
    Not(String),
}

impl Program {
    const NAME: &str = "dpdk_libs";

    /// Compiles it; for this kind of processor, if not for the one that DPDK was built for.
    pub(crate) fn build(march: Option<&str>) -> anyhow::Result<Built> {
        match Command::new("pkg-config").args(["--exists", "libdpdk"]).status() {
            Ok(status) if status.success() => {}
            Ok(_) => return Ok(Built::Not("libdpdk-dev is not installed: pkg-config knows no libdpdk".into())),
            Err(_) => return Ok(Built::Not("pkg-config is not installed".into())),
        }
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/dpdk-libs/dpdk");
        let program = Self { folder: std::env::temp_dir().join(format!("netvsc-dpdk-libs-{}", std::process::id())) };
        std::fs::create_dir_all(&program.folder)?;
        for file in SOURCES {
            let mut compiler = compiler();
            compiler.args(["-c", "-O3", "-std=gnu11", "-DALLOW_EXPERIMENTAL_API"]).args(flags("--cflags")?);
            compiler.args(march.map(|march| format!("-march={march}")));
            if file == OF_THIS_PROCESSOR {
                compiler.arg("-march=native");
            }
            run(compiler.arg("-o").arg(program.folder.join(file).with_extension("o")).arg(sources.join(file)))?;
        }
        let objects = SOURCES.map(|file| program.folder.join(file).with_extension("o"));
        run(compiler().args(objects).args(flags("--libs")?).arg("-o").arg(program.file()))?;
        Ok(Built::Program(program))
    }

    fn file(&self) -> PathBuf {
        self.folder.join(Self::NAME)
    }

    /// Starts it for one kind of work; or says why that cannot be done here.
    pub(crate) fn start(&self, work: &str, input: &[Vec<u8>], cpu: usize) -> anyhow::Result<Result<Client, String>> {
        let mut records = Vec::new();
        for record in input {
            records.extend((record.len() as u32).to_ne_bytes());
            records.extend(record);
        }
        let file = self.folder.join("input");
        std::fs::write(&file, records)?;
        let mut command = Command::new(self.file());
        command.args(EAL).args(["-l", &cpu.to_string(), "--", work]).arg(file);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start DPDK's half")?;
        let (questions, answers) = child.stdin.take().zip(child.stdout.take()).context("its pipes")?;
        let mut client = Client { child, questions: Some(questions), answers: BufReader::new(answers) };
        let said = client.answer()?;
        Ok(if said == "ready" { Ok(client) } else { Err(said) })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // In a folder for what is temporary: no matter if it stays.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn compiler() -> Command {
    Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("run {}", command.get_program().display()))?;
    ensure!(status.success(), "DPDK's half does not build: {command:?}");
    Ok(())
}

/// What compiling with DPDK takes.
fn flags(which: &str) -> anyhow::Result<Vec<String>> {
    let output = Command::new("pkg-config").args([which, "libdpdk"]).output().context("run pkg-config")?;
    Ok(String::from_utf8_lossy(&output.stdout).split_ascii_whitespace().map(str::to_owned).collect())
}

/// It runs.
#[derive(Debug)]
pub(crate) struct Client {
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Client {
    /// Of what one pass makes.
    pub(crate) fn digest(&mut self) -> anyhow::Result<u64> {
        self.ask("digest")
    }

    /// How long the passes take.
    pub(crate) fn time(&mut self, passes: u64) -> anyhow::Result<Duration> {
        Ok(Duration::from_nanos(self.ask(&format!("time {passes}"))?))
    }

    fn ask(&mut self, question: &str) -> anyhow::Result<u64> {
        let questions = self.questions.as_mut().context("it has ended")?;
        writeln!(questions, "{question}").context("ask DPDK's half")?;
        let answer = self.answer()?;
        answer.parse().with_context(|| format!("{question}: {answer}"))
    }

    /// The next line for us: what DPDK says of itself is not.
    fn answer(&mut self) -> anyhow::Result<String> {
        loop {
            let mut line = String::new();
            ensure!(self.answers.read_line(&mut line)? > 0, "DPDK's half has ended: {}", self.child.wait()?);
            if let Some(answer) = line.strip_prefix('=') {
                return Ok(answer.trim_end().to_owned());
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It ends with its input.
        self.questions = None;
        let _ = self.child.wait();
    }
}
