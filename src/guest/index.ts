/** The guest room's door: the host side of the agent link. */
export * from './link.ts';
export { openLink } from './open-link.ts';
export { GuestShell, type TerminalSize } from './shell.ts';
export { serveTestAgent, type TestAgent, type TestAgentOptions } from './test-agent.ts';
