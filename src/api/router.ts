/** Finds the operation of a request by method and path; both services share host and signing name, so nothing else can. */
import type { Operation, Service } from '../../spec/shape.ts';
import { serializationError } from './wire-error.ts';

export interface Route {
  readonly name: string;
  readonly service: Service;
  readonly operation: Operation;
}

export interface Match extends Route {
  readonly labels: Readonly<Record<string, string>>;
}

type Segment = { readonly literal: string } | { readonly label: string };

export class Router {
  readonly #routes: readonly (Route & { readonly segments: readonly Segment[] })[];

  constructor(services: readonly Service[]) {
    this.#routes = services.flatMap((service) =>
      Object.entries(service.operations).map(([name, operation]) => ({
        name,
        service,
        operation,
        segments: operation.uri.split('/').map(readSegment),
      })),
    );
  }

  /**
   * The operation and its decoded path labels. The path is taken as sent: a label never spans a raw slash.
   * @throws WireError when a label is not properly percent-encoded
   */
  find(method: string, path: string): Match | undefined {
    const parts = path.split('/');
    for (const route of this.#routes) {
      if (route.operation.method !== method || route.segments.length !== parts.length) continue;
      const labels: [string, string][] = [];
      const fits = route.segments.every((segment, index) => {
        const part = parts[index] ?? '';
        if ('literal' in segment) return segment.literal === part;
        labels.push([segment.label, part]);
        return part !== '';
      });
      if (!fits) continue;
      const decoded = labels.map(([label, part]) => [label, decode(part)]);
      return { ...route, labels: Object.fromEntries(decoded) };
    }
    return undefined;
  }
}

function readSegment(text: string): Segment {
  return text.startsWith('{') ? { label: text.slice(1, -1) } : { literal: text };
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw serializationError('The path is not properly percent-encoded.');
  }
}
