mod columns;
mod router;
