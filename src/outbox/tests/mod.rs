mod columns;
mod router;
mod statements;
