/* A COMMAND that says when it runs, and stays: it writes a byte to its standard output and sleeps until it is killed. */
#include <unistd.h>

int main(void)
{
    if (write(1, "\n", 1) != 1)
        return 1;
    for (;;)
        pause();
}
