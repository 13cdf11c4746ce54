//! Runs the example in a folder that goes away: `cargo run -p embedded`.

use std::error::Error;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let data = tempfile::tempdir()?;
    let mut said = Vec::new();
    embedded::run(data.path(), &mut said).await?;
    std::io::Write::write_all(&mut std::io::stdout(), &said)?;
    Ok(())
}
